// csrc/cuda/ops.cpp over the emulated kernels: the operations for CUDA of a torch without CUDA. Tests hand it tensors
// of the CPU, and here is what it asks of torch about a device.
#include "cuda_emulator.h"

#include "../../csrc/cuda/ops.cpp"

extern "C" {

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  return *stream = &emulator::stream, 0;
}

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  return *guard = nullptr, 0;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return 0; }

}  // extern "C"
