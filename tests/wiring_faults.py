"""Bugs in what passes between two stages, to be planted by test_faults, by the tests that must notice."""

WIRES = {
    "test_item_vectors.py::test_a_vector_is_the_items_own_and_those_of_its_codes": {
        "codes of one level for those of another": ("policy.py", "self.items.size * level", "level"),
    },
    "test_item_vectors.py::test_an_own_vector_counts_from_the_end_of_its_item": {
        "an own vector before the end of its item": (
            "policy.py",
            "device=x.device) - 1  # their",
            "device=x.device) - 2  #",
        ),
    },
    "test_item_vectors.py::test_the_last_column_is_the_item_among_all_by_the_state_before_it": {
        "an item by the state that has read its codes": (
            "policy.py",
            "item_logprobs(hidden[:, 0])",
            "item_logprobs(hidden[:, -1])",
        ),
    },
    "test_item_vectors.py::test_vectors_order_what_the_search_has_found": {
        "beams in the order of their codes": ("rollout.py", "    if policy.rescores:\n", "    if False:\n"),
        "a search for what is not an item": (
            "rollout.py",
            "items, total, _ = beam(policy, prompt, trie, width)",
            "items, total, _ = beam(policy, prompt, trie, width, False)",
        ),
    },
    "measure/test_evaluation.py::test_the_recency_of_item_knn_is_the_best_on_validation": {
        "the worst recency": (
            "measure/evaluation.py",
            "max(baselines.RECENCY, key=quality)",
            "min(baselines.RECENCY, key=quality)",
        ),
    },
    "run/test_folder.py::test_items_have_vectors_where_asked_and_with_one_code_they_share_others": {
        "vectors that nobody gets": (
            "run/folder.py",
            "items = shared if cfg.vectors and shared.levels > 1 else None",
            "items = None",
        ),
    },
    "run/test_training.py::test_training_ends_when_validation_has_long_not_been_better": {
        "a patience of one more": (
            "run/training.py",
            "self.run.cfg.patience <= worse",
            "self.run.cfg.patience < worse",
        ),
    },
    "run/test_training.py::test_the_loss_is_of_codes_and_of_items_by_vectors_and_the_nll_of_codes": {
        "a loss of codes alone": (
            "run/training.py",
            "update((of_codes + of_items) / trie.levels",
            "update(of_codes / trie.levels",
        ),
        "an NLL of items too": (
            "run/training.py",
            "wide(of_codes.detach())",
            "wide((of_codes + of_items).detach())",
        ),
    },
    "measure/test_evaluation.py::test_pass_at_k_is_of_samples_and_not_of_the_beam": {
        "samples of Pass@K that keep seen items": (
            "measure/evaluation.py",
            "for name, items in lists.items()}\n        if full",
            'for name, items in lists.items()} | {"samples": lists.get("samples")}\n        if full',
        ),
    },
    "run/test_arms.py::test_a_reward_is_the_hit_or_the_ranker_that_the_arm_names": {
        "hits in place of a ranker": ("run/experiment.py", 'if cfg.reward == "hit":', "if True:"),
    },
    "run/test_machine.py::test_rows_of_all_processes_come_in_the_order_in_which_they_were_dealt_out": {
        "rows gathered by process": (
            "tasks.py",
            "torch.cat(parts)[order.argsort()]",
            "torch.cat(parts)",
        ),
    },
    "run/test_resume.py::test_stopped_and_gone_on_with_is_the_same_training": {
        "a resumed training with a new Adam": (
            "run/training.py",
            'self.optimiser.load_state_dict(state["optimiser"])',
            'state["optimiser"]',
        ),
    },
    "run/test_resume.py::test_supervised_training_has_dropout_and_reinforcement_has_none": {
        "reinforcement with dropout": (
            "loop.py",
            "self.policy = copy.deepcopy(start).eval()",
            "self.policy = copy.deepcopy(start).train()",
        ),
        "supervised training without dropout": (
            "run/training.py",
            "        self.policy.train()\n",
            "        self.policy.eval()\n",
        ),
    },
    "run/test_resume.py::test_the_best_weights_so_far_are_remembered": {
        "best weights that are not put back": (
            "run/training.py",
            "    if training.best:\n",
            "    if False:\n",
        ),
        "a resumed training that forgets the best weights": (
            "run/training.py",
            'state["measured"], state["best"]',
            'state["measured"], None',
        ),
    },
    "run/test_training.py::test_the_supervised_gradients_of_two_processes_average_to_that_of_one": {
        "a loss over a process's own items": (
            "run/training.py",
            "int(self.lengths[rows].sum())",
            "int(self.lengths[part].sum())",
        ),
    },
    "test_loop.py::test_a_line_has_means_over_groups_over_rollouts_and_over_items": {
        "silent per rollout": ("loop.py", ".all(1).sum(), contexts)", ".all(1).sum(), rollouts)"),
        "holes per context": ("loop.py", "x.rollout.items.numel())", "contexts)"),
    },
    "test_loop.py::test_several_updates_are_so_many_steps_of_adam_on_the_same_loss": {
        "a gradient that is never set to 0": (
            "loop.py",
            "    optimiser.step()\n    optimiser.zero_grad()\n",
            "    optimiser.step()\n",
        ),
    },
    "test_loop.py::test_the_gradients_of_two_processes_average_to_that_of_one": {
        "a gradient that shrinks with the number of processes": (
            "loop.py",
            "update(loss * count, ",
            "update(loss, ",
        ),
        "a loss over a process's own contexts": (
            "loop.py",
            "reference, cfg.contexts)",
            "reference, len(x.batch))",
        ),
    },
    "test_policy.py::test_a_temperature_divides_the_logits_before_the_mask": {
        "a temperature upside down": (
            "policy.py",
            "logits / temperature if temperature",
            "logits * temperature if temperature",
        ),
    },
    "test_policy.py::test_two_conditions_share_as_many_embeddings_as_values": {
        "flags that share an embedding": ("policy.py", "[0, 2, 5, 8]", "[0, 2, 4, 7]"),
    },
    "test_rollout.py::test_a_temperature_divides_the_logits_before_the_mask": {
        "a scorer without its temperature": (
            "policy.py",
            "token_logprobs(policy.logits(hidden), allowed, temperature)",
            "token_logprobs(policy.logits(hidden), allowed)",
        ),
    },
    "test_tasks.py::test_an_objective_draws_from_a_stream_of_its_own": {
        "the gate draws what the rollouts drew": (
            "tasks.py",
            'partial(self.reward, batch), partial(noise, "objective")',
            'partial(self.reward, batch), partial(noise, "rollouts")',
        ),
    },
    "test_tasks.py::test_items_can_be_asked_for_their_reward_and_their_log_probability": {
        "log-probabilities asked for without the mask": (
            "tasks.py",
            "trie.masks(codes) if constrained else None",
            "None",
        ),
    },
    "test_tasks.py::test_rows_are_dealt_out_and_a_process_without_any_repeats_one_for_nothing": {
        "every process with all that follows": (
            "tasks.py",
            "part = rows[self.rank :: self.count]",
            "part = rows[self.rank :]",
        ),
    },
    "test_tasks.py::test_several_processes_do_together_what_one_does": {
        "every process with the noise of the first": (
            "tasks.py",
            'noise("rollouts", cfg.group, trie.levels)[part]',
            'noise("rollouts", cfg.group, trie.levels)[: len(part)]',
        ),
        "every process with the needs of the first": (
            "data/lists.py",
            "needs_of_step(seed, step, len(rows))[part]",
            "needs_of_step(seed, step, len(part))",
        ),
    },
    "test_tasks.py::test_the_masks_of_a_signal_are_what_could_be_said_in_its_contexts": {
        "the next item scored without the mask of its sampling": (
            "tasks.py",
            "trie.masks(signal.codes) if constrained else None",
            "None",
        ),
        "lists scored without the mask of their sampling": (
            "tasks.py",
            "return rollout.closed_masks(codes[signal.rows], signal.codes, trie.size)",
            "return None",
        ),
        "masks of the first contexts in place of the signal's": (
            "tasks.py",
            "closed_masks(codes[signal.rows], ",
            "closed_masks(codes[: len(signal.rows)], ",
        ),
    },
    "test_tasks.py::test_the_probe_asks_for_the_same_needs_at_every_step_and_training_does_not": {
        "a probe that asks for other needs at every step": (
            "tasks.py",
            "PROBE_STEP if probe else step",
            "step",
        ),
    },
    "test_tasks.py::test_training_sees_what_feedback_makes_of_the_gains_and_the_probe_sees_the_truth": {
        "training sees every true gain": ("tasks.py", "lists if probe else self.feedback(lists)", "lists"),
        "the probe measured by what training knows": (
            "tasks.py",
            "lists if probe else self.feedback(lists)",
            "self.feedback(lists)",
        ),
    },
    "run/test_diverged.py::test_a_step_that_is_not_finite_is_not_taken": {
        "a step that is not finite": ("loop.py", "if not math.isfinite(value + norm):", "if False:"),
    },
    "run/test_training.py::test_a_broken_policy_is_never_written_and_the_file_before_stands": {
        "weights that are not finite in a file": (
            "run/folder.py",
            "if not value.isfinite().all():",
            "if False:",
        ),
    },
    "run/test_folder.py::test_a_flipped_bit_is_refused_or_changes_nothing": {
        "checksums that nobody compares": ("run/folder.py", "damaged = archive.testzip()", "damaged = None"),
    },
    "run/test_folder.py::test_weights_of_other_data_are_refused": {
        "weights on other data": ("run/folder.py", 'if state.get("data") != self.fingerprint:', "if False:"),
        "a fingerprint without ids": ("run/folder.py", "(dataset.catalogue.ids, dataset.users)", '""'),
    },
    "run/test_folder.py::test_a_second_start_is_refused_until_the_first_has_ended": {
        "a lock that is no lock": ("files.py", "        lock.acquire()\n", ""),
    },
    "objectives/test_loss.py::test_a_ratio_that_would_overflow_has_finite_gradients": {
        "a ratio that overflows": ("objectives/loss.py", "(logp - old).clamp(max=LARGEST)", "(logp - old)"),
    },
    "test_tasks.py::test_lists_are_samples_and_have_an_entropy_whatever_the_rollouts_of_next_items_are": {
        "lists without an entropy": (
            "loop.py",
            "if x.rollout.sampled:",
            'if x.rollout.sampled and x.cfg.rollouts == "sample":',
        ),
    },
    "test_loop.py::test_a_fact_without_a_definition_is_an_error_and_with_one_it_is_logged": {
        "facts that vanish": (
            "loop.py",
            "raise ValueError(f\"'{name}' is logged and not defined; add it to the objective's facts\")",
            "return",
        ),
    },
    "run/test_arms.py::test_a_setting_that_no_arm_reads_is_one_line": {
        "flags that are ignored": ("run/experiment.py", "if readers and not any(", "if False and not any("),
    },
    "measure/test_report.py::test_an_objective_named_s_is_no_prefix_of_supervised": {
        "an objective that is a prefix": (
            "measure/report.py",
            "for arm in arms if arm != other]",
            "for arm in arms if not other.startswith(arm)]",
        ),
    },
}
