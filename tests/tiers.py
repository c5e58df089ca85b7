"""Two tiers of tests: `--tier quick` is what `make check` runs, `--tier rest` all others. Without it every test runs.

Of the rest is a test that starts a process, or that takes more than about a second with the fixtures it is the first to
ask for. It is marked `process` or `slow`, or named in REST, by itself or by such a fixture. guard.py holds the quick
tier to it: a new test that belongs to the rest, and does not say so, fails there.
"""

from collections.abc import Iterator

import pytest
from guard import Guard

ALL = ("*",)  # a module of which every test is of the rest
REST = {
    "test_bench_cuda_branches": ALL,
    "test_bench_cut_off": ("test_every_printed_row_is_in_the_file",),
    "test_bench_gpu_script": ALL,
    "test_bench_gpu_smoke": ("test_every_line_of_one_backbone",),
    "test_bench_reference": ("test_same_loss_and_gradients_in_float64", "test_same_loss_and_maps_in_float32"),
    "test_bench_runs": ALL,
    "test_cli": ("test_the_module_runs_as_a_process_without_a_traceback",),
    "test_cluster": ("test_a_host_is_asked_twice", "test_scripts_are_executable_shell"),
    "test_cpu_depthwise": ("test_opcheck", "test_a_missing_or_failing_compiler_is_named"),
    "test_cpu_install": ("test_shared_cells_equal_the_definition", "test_reach_and_stride_of_real_blocks"),
    "test_cpu_memory": ALL,
    "test_doctor": ALL,
    "test_dry_gpu": ALL,
    "test_evaluate_scores": ("test_labels_equal_brute_force_also_in_a_pool",),
    "test_kernels_aot": ALL,
    "test_kernels_crf": ("test_triton_splat_blur_update_equal_plain",),
    "test_kernels_launch": ("test_new_sizes_compile_nothing_new",),
    "test_kernels_ops": ("test_environment_forces_a_backend",),
    "test_kernels_patches": (
        "test_split_and_merge",
        "test_pool",
        "test_half_precision",
        "test_one_output_alone",
        "test_gradcheck",
    ),
    "test_kernels_walk": ("test_backends_equal_the_definition", "test_over_several_blocks"),
    "test_label_job": ALL,
    "test_label_parts": (
        "test_a_worker_that_dies_costs_its_image_only",
        "test_workers_that_cannot_work_are_an_error_of_the_job",
    ),
    "test_labels_crf": (
        "test_pool_equals_sequential_and_raises_what_the_work_raises",
        "test_a_dying_worker_is_an_error_for_the_user",
        "test_workers_start_without_torch",
    ),
    "test_labels_pseudo": (
        "test_pool_equals_sequential_and_resume_keeps_what_is_there",
        "test_a_bad_image_is_noted_and_the_rest_goes_on",
        "test_interrupt_ends_command_and_workers_and_resume_completes",
    ),
    "test_models_backbones": (
        "test_values_and_gradients_equal_plain_pytorch",
        "test_specs_tell_channels_and_sizes_of_every_block",
        "test_frozen_blocks_get_no_gradient_and_keep_no_activations",
        "test_batch_norm_is_never_trained",
    ),
    "test_models_compile": ALL,
    "test_package": ALL,
    "test_patch_classifier": (
        "test_progressive_equals_definition",
        "test_explicit_equals_definition",
        "test_without_patches_equals_definition",
        "test_one_patch_equals_the_global_branch",
        "test_efficientnet_equals_definition",
    ),
    "test_pretended_gpu": ALL,
    "test_refinement_parts": (
        "test_cost_counts_what_a_training_step_does",
        "test_every_preset_with_a_cost_states_the_computed_one",
    ),
    "test_run_chain": ALL,
    "test_run_refinement": ALL,
    "test_step_lines": ALL,
    "test_train_checkpoints": ("test_the_last_are_kept_and_those_that_end_a_stage",),  # sha256sum
    "test_train_engine": (  # DeepSpeed compiles a test file when the first engine starts
        "test_the_host_does_not_wait_for_the_device_in_a_step",
        "test_fused_sgd_trains_as_plain_sgd_also_when_restored",
        "test_a_compiled_network_trains_as_it_does_uncompiled",
    ),
    "test_train_runs": ALL,
    "test_train_state": ALL,
    "test_train_watchdog": ALL,
}
MARKS = ("process", "slow")


def of_the_rest(item: pytest.Item) -> bool:
    named = set(REST.get(item.path.stem, ()))
    own = {*ALL, getattr(item, "originalname", item.name), *getattr(item, "fixturenames", ())}
    return bool(named & own) or any(item.get_closest_marker(mark) for mark in MARKS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=("quick", "rest"), help="quick: without those that start processes or take long")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "process: starts a process; not part of `make check`")
    config.addinivalue_line("markers", "slow: takes more than about a second; not part of `make check`")


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    tier = config.getoption("tier")
    if tier is None:
        return
    rest = [item for item in items if of_the_rest(item)]
    left_out = set(rest) if tier == "quick" else set(items) - set(rest)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]
    if tier == "quick":
        config.pluginmanager.register(QuickTier())


class QuickTier:
    def __init__(self) -> None:
        self.guard = Guard()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Iterator[None]:
        self.guard.begin()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        result = yield
        if complaint := self.guard.complaint():  # also where the test, or what it tests, caught the exception
            pytest.fail(f"{item.nodeid} {complaint}", pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        try:
            return (yield)
        finally:
            self.guard.end()
