"""Bugs in the stages of a whole run, to be planted by test_faults, by the tests that must notice."""

STAGES = {
    "run/test_whole_lists.py::test_a_line_has_the_estimates_and_the_truth_of_the_probe_and_of_validation": {
        "validation on the lists of the test": (
            "run/lists.py",
            'self.sources["valid"].first(VALID',
            'self.sources["test"].first(VALID',
        ),
        "validation on the need that is held out": ("measure/rankings.py", " if need != HELD_OUT])", "])"),
    },
    "run/test_whole_lists.py::test_an_arm_is_adam_on_the_loss_of_its_own_rankings": {
        "the critic's mean left out": (
            "models/critic.py",
            "gains=fill(lists.gains, lists.observed, mean), ",
            "",
        ),
        "lists that start from the supervised policy": (
            "run/experiment.py",
            "train_arm(run, shared.start, shared",
            "train_arm(run, start, shared",
        ),
        "list arms that learn from the lists of the test": (
            "run/lists.py",
            'run, train = self.run, self.sources["train"]',
            'run, train = self.run, self.sources["test"]',
        ),
    },
    "run/test_whole_lists.py::test_every_way_of_ranking_is_measured_on_the_lists_of_the_test": {
        "the table on the lists of validation": (
            "run/lists.py",
            "self.run.cfg, self.sources[split]",
            'self.run.cfg, self.sources["valid"]',
        ),
        "a floor that knows the lists of the test": (
            "run/lists.py",
            'list_floors(self.sources["known"]',
            'list_floors(self.sources["test"]',
        ),
        "the sign of the comparison of list arms": (
            "run/lists.py",
            "paired_bootstrap(mean[both], base[both]",
            "paired_bootstrap(base[both], mean[both]",
        ),
    },
    "run/test_whole_lists.py::test_the_control_imitates_the_gains_that_training_knows": {
        "imitation of lists, not of codes": (
            "run/lists.py",
            "codes, allowed).mean()",
            "codes, allowed).sum((2, 3)).mean()",
        ),
        "imitation that changes its start": (
            "run/lists.py",
            "policy = copy.deepcopy(start).eval().requires_grad_(True)",
            "policy = start.eval().requires_grad_(True)",
        ),
        "the control sees every true gain": (
            "run/lists.py",
            "lambda lists: self.feedback(lists).gains",
            "lambda lists: lists.gains",
        ),
        "a control that starts from the supervised policy": (
            "run/lists.py",
            "partial(imitate, arm, self.start, *how)",
            "partial(imitate, arm, self.run.trained(), *how)",
        ),
        "a control with the rate of the list start": (
            "run/lists.py",
            "partial(imitate, arm, self.start, *how)",
            "partial(imitate, replace(arm, rl_rate=RATE), self.start, *how)",
        ),
    },
    "run/test_whole_lists.py::test_the_critic_learns_from_the_lists_of_training": {
        "a critic that learns from the lists of the test": (
            "run/lists.py",
            "partial(train_critic, critic, train, cfg",
            'partial(train_critic, critic, sources["test"], cfg',
        ),
    },
    "run/test_whole_lists.py::test_the_list_start_imitates_the_order_of_the_supervised_policy": {
        "imitation without the mask of what remains": (
            "run/lists.py",
            "score(policy, prompt, codes, allowed).mean()",
            "score(policy, prompt, codes).mean()",
        ),
        "next-item scores without the trie": (
            "run/lists.py",
            "codes, trie.masks(codes)).sum((2, 3))",
            "codes).sum((2, 3))",
        ),
    },
    "run/test_whole_run.py::test_a_line_has_the_estimates_and_the_truth_of_the_probe_and_of_validation": {
        "validation of arms on the test split": (
            "run/folder.py",
            "some = sample(self.dataset.valid, count",
            "some = sample(self.dataset.test, count",
        ),
        "a standard error of one rollout": (
            "measure/exact.py",
            "group.var(1) / group.shape[1]",
            "group.var(1)",
        ),
    },
    "run/test_whole_run.py::test_an_arm_is_adam_on_the_loss_of_its_own_rollouts": {
        "reinforcement without clipping": (
            "loop.py",
            "learner.optimiser, step, cfg.clip)",
            "learner.optimiser, step)",
        ),
        "RL on the users of supervised training": (
            "run/experiment.py",
            "contexts(run.dataset.fresh), reward",
            "contexts(run.dataset.train), reward",
        ),
        "RL from an untrained policy": (
            "run/experiment.py",
            "start = run.trained()",
            "start = run.untrained().eval()",
        ),
        "a policy that is its own start": (
            "loop.py",
            "self.policy = copy.deepcopy(start).eval().requires_grad_(True)",
            "self.policy = start.eval().requires_grad_(True)",
        ),
        "the first step again and again": (
            "run/training.py",
            "self.objective, self.step)",
            "self.objective, 0)",
        ),
        "one item of history too many": (
            "tasks.py",
            "rows[part], cfg.history)",
            "rows[part], cfg.history + 1)",
        ),
    },
    "run/test_whole_run.py::test_codes_are_fitted_to_what_supervised_training_sees": {
        "codes fitted on users that are left to RL": (
            "data/vectors.py",
            "cooccurrence_vectors(dataset.train,",
            "cooccurrence_vectors(dataset.known,",
        ),
    },
    "run/test_whole_run.py::test_every_method_of_the_report_is_measured_on_the_test_split": {
        "SASRec in a folder that nobody reads": (
            "train.py",
            'out=f"{cfg.out}/sasrec"',
            'out=f"{cfg.out}/baseline"',
        ),
        "the policy's numbers in the row of SASRec": (
            "run/experiment.py",
            '{"SASRec": below.pop("sasrec")}',
            '{"SASRec": run}',
        ),
        "policies on the validation split": (
            "run/experiment.py",
            "runs[name].trie, dataset, examples, cfg)",
            "runs[name].trie, dataset, dataset.valid, cfg)",
        ),
        "the numbers of the first arm in all rows": (
            "run/experiment.py",
            "find_run(path.parent, device, run) for path",
            'find_run(run.folder / "continued", device, run) for path',
        ),
    },
    "run/test_whole_run.py::test_floors_know_what_came_before_the_targets_and_no_more": {
        "floors that do not know the users left to RL": (
            "measure/evaluation.py",
            'if split == "test" else dataset.known',
            'if split == "test" else dataset.train',
        ),
        "floors on test that do not know validation": (
            "measure/evaluation.py",
            'if split == "test" else dataset.known',
            "if False else dataset.known",
        ),
        "floors on validation that know its targets": (
            "measure/evaluation.py",
            'if split == "test" else dataset.known',
            "if True else dataset.known",
        ),
    },
    "run/test_whole_run.py::test_all_methods_are_measured_on_the_same_sample_of_test_contexts": {
        "a sample for floors alone": (
            "run/experiment.py",
            "runs[name].trie, dataset, examples, cfg)",
            "runs[name].trie, dataset, whole, cfg)",
        ),
    },
    "measure/test_baselines.py::test_before_test_lie_all_histories_and_the_validation_targets": {
        "validation targets of users without a test context are forgotten": (
            "measure/baselines.py",
            "valid.stop + (data.valid.targets != PAD).sum(1)",
            "valid.stop",
        ),
        "histories of test users alone are forgotten": (
            "measure/baselines.py",
            "parts = dataset.whole(data.known), valid, data.test",
            "parts = dataset.whole(data.known), valid",
        ),
    },
    "measure/test_evaluation.py::test_what_was_not_searched_is_not_measured": {
        "recall@50 of a beam of 12": ("measure/evaluation.py", "cfg.beam if cfg.beam < catalogue else", ""),
        "a full search that is cut": (
            "measure/evaluation.py",
            "cfg.beam if cfg.beam < catalogue else metrics.WIDTH",
            "cfg.beam",
        ),
        "pass@50 of 6 samples": (
            "measure/evaluation.py",
            'lists["samples"], most=cfg.samples)',
            'lists["samples"], most=most)',
        ),
    },
    "run/test_folder.py::test_an_arm_and_sasrec_read_the_data_of_the_run_they_lie_in": {
        "data of the folder itself alone": (
            "run/folder.py",
            "above if above.is_file() and not",
            "above if False and not",
        ),
        "codes of the policy for SASRec": (
            "run/folder.py",
            "if cfg.levels == 1 < shared.levels:",
            "if False:",
        ),
    },
    "run/test_whole_run.py::test_supervised_training_is_adamw_on_the_nll_of_every_item": {
        "training sequences that lose their last target": (
            "run/training.py",
            "batch(part, cfg.history + 1)",
            "batch(part, cfg.history)",
        ),
        "a constant rate": (
            "run/training.py",
            'group["lr"] = learning_rate(self.step, self.steps, cfg)',
            'group["lr"] = cfg.rate',
        ),
        "supervised training without clipping": (
            "run/training.py",
            "self.optimiser, self.step, cfg.clip)",
            "self.optimiser, self.step)",
        ),
        "weights chosen on the test split": (
            "run/folder.py",
            "some = sample(self.dataset.valid, count",
            "some = sample(self.dataset.test, count",
        ),
    },
    "run/test_whole_run.py::test_the_weights_that_were_best_on_validation_go_on": {
        "best weights that go on to change": (
            "run/training.py",
            "{name: value.clone() for name, value in self.policy.state_dict().items()}",
            "dict(self.policy.state_dict())",
        ),
        "the last weights in place of the best": (
            "run/training.py",
            'if line["ndcg@10"] > max(',
            'if True or line["ndcg@10"] > max(',
        ),
        "the last weights go on": (
            "run/folder.py",
            'policy.load_state_dict(state["best"])',
            'policy.load_state_dict(state["policy"])',
        ),
    },
}
