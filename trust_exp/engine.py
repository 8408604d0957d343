"""One run: data -> model -> method -> fit -> evals -> result. Knows no Hydra; jobs.py calls it."""

import ctypes
import glob
import logging
import platform
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from trust_exp import durable
from trust_exp.build import build, target_of
from trust_exp.callbacks import SAME_AGAIN, FiniteLoss, ProgressLine, SafePoint, StepDraws, StopRequest
from trust_exp.check import watched_evals
from trust_exp.console import say
from trust_exp.contract import part_of
from trust_exp.data.batch import Split
from trust_exp.data.config import DataConfig
from trust_exp.data.module import DataModule
from trust_exp.data.store import differ
from trust_exp.errors import Interrupted, UserError
from trust_exp.evals.suite import Context, Outcomes, Suite, SuiteRunner, usable_outcomes
from trust_exp.evals.watch import Watch
from trust_exp.identity import eval_id, eval_name
from trust_exp.job import Job, is_first
from trust_exp.loggers.base import RunLogger, open_logger
from trust_exp.messages import RunFailed
from trust_exp.methods.base import ClosedForm, GradientMethod, Method
from trust_exp.models.outputs import LOGITS, named
from trust_exp.networks import load_state, make_network
from trust_exp.progress import announced, track
from trust_exp.references import at_paths
from trust_exp.results.record import DRAWS, Record, environment
from trust_exp.rng import drawing_from
from trust_exp.saving import all_finite, check_whole, load_whole, save_whole
from trust_exp.schema import find_schema, is_node_of


def execute_and_record(job: Job) -> None:
    """Do all that the job's run lacks and keep its result.json up to date, also when it fails.

    Raises:
        UserError: for a mistake that only the data or the model show.
        RunFailed: if the run raised; the folder has the traceback.
        Interrupted: if it was asked to stop; it can be resumed.
    """
    run = job.run
    record = Record(run, job.config)
    was_done = record.values["status"] == "done"
    if not run.is_trained:
        record.values.update(config=job.config, environment=environment(device_name(job), job.command), draws=DRAWS)
    if not was_done:  # a run that is done stays done, whatever eval is asked of it
        record.write(status="running", error=None)
    logger = open_logger(job.config["logger"], run, record.values["config"])
    try:
        _execute_and_record(job, record, logger, was_done)
    finally:
        logger.finish(record.values)


def _execute_and_record(job: Job, record: Record, logger: RunLogger, was_done: bool) -> None:
    run = job.run
    try:
        execute(job, record, logger)
    except UserError as error:
        if not was_done:
            record.write(status="failed", error=str(error))
        raise
    except Interrupted as stop:
        if not was_done:
            record.write(status="interrupted", error=str(stop))
        say(f"{run.folder.name} is interrupted; the same command goes on with it")
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
        with open(run.folder / "traceback.txt", "w", encoding="utf-8", errors="replace") as file:
            traceback.print_exc(file=file)
        if not was_done:
            record.write(status="failed", error=reason)
        raise RunFailed(f"{run.folder.name} failed with {reason}; see {run.folder / 'traceback.txt'}") from error
    (run.folder / "traceback.txt").unlink(missing_ok=True)  # of an earlier try
    record.write(status="done", peak_memory_mb=round(peak_memory(job) / 2**20))


def execute(job: Job, record: Record | None = None, logger: RunLogger | None = None) -> None:
    """The same on every process; only the first one has a record and a logger."""
    quieten()
    where = job.config["accelerator"]
    if where["kind"] == "gpu" and not torch.cuda.is_available():
        raise UserError("accelerator=gpu needs a GPU that torch can use; there is none here (trust-exp doctor)")
    if where["precision"] == "16-mixed" and not uses_gpu(job):
        raise UserError("accelerator.precision=16-mixed needs a GPU; use bf16-mixed or 32-true on a CPU")
    if where["sync_batchnorm"] and job.processes > 1 and not uses_gpu(job) and not job.run.is_trained:
        raise UserError("accelerator.sync_batchnorm=true needs GPUs for several processes: torch has it there alone")
    # TF32 rounds at 2^-11: a certificate of the float32 network would not hold for it.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    keep_freed_memory()
    with StopRequest().listening() as stop:
        Pipeline(job, record, logger, stop).carry_out()


def keep_freed_memory() -> None:
    """Have glibc reuse the memory of freed tensors instead of handing it back to the system; elsewhere do nothing.

    Activations of a small network are megabytes each. By default each is mapped anew and its pages are zeroed at their
    first use, a quarter of an attack's time on a CPU (benchmarks/README.md).
    """
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that it takes
        mallopt(M_TRIM_THRESHOLD, 2**30)


class Pipeline:
    """The stages of one run. Every process builds it; only the first has a record and a logger."""

    def __init__(self, job: Job, record: Record | None, logger: RunLogger | None, stop: StopRequest) -> None:
        self.job, self.run, self.record, self.logger, self.stop = job, job.run, record, logger, stop
        self.config = job.config
        self.ending = f".{job.config['figures']}"  # of the files of figures
        self.trainer: L.Trainer | None = None

    def carry_out(self) -> None:
        """Do what is missing; if this process ends early, so do those that it started."""
        try:
            with drawing_from(self.config["seed"], "run"):
                self._carry_out()
        except BaseException:
            launcher = self.trainer.strategy.launcher if self.trainer else None
            if launcher is not None:
                launcher.kill(signal.SIGKILL)
            raise

    def _carry_out(self) -> None:
        """Fit if there is no trained network, then run the pending evals."""
        pending = self.job.pending()
        if self.config["accelerator"]["threads"]:
            torch.set_num_threads(self.config["accelerator"]["threads"])
        with self._phase("setup"):
            data = self._data("dataset")
            check_two_classes(self.config, data)
            target_of(self.config["method"]).check(self.config["method"], data.info)
            for node in pending.values():
                if node.get("data") is None:  # what cannot be asked of the data is said before the training
                    build(node).check(data.info)
                    for split in node.get("splits", ()):
                        data.parent(split)
            others = self._data_of_method()
        if not self.run.is_trained:
            with self._phase("fit"), drawing_from(self.config["seed"], "training"):
                self._fit(data, others)
            if self.stop.requested:
                raise Interrupted("stopped after the training")
        self._evaluate(data, pending)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        with announced(name, visible=is_first()), self.record.phase(name) if self.record else nullcontext():
            yield

    def _data(self, key: str) -> DataModule:
        """The data of a node such as ``dataset``, prepared and compared with what the run has seen before."""
        node = at_paths(self.config, key.partition(".")[0])
        for part in key.split(".")[1:]:
            node = node[part]
        data: DataModule = build(node, name=node["name"], root=self.config["paths"]["data"], seed=self.config["seed"])
        if self.record is not None:
            data.prepare_data()
            for remark in data.remarks():
                say(remark)
            for split in data.splits:
                data.size(split)  # which of them is missing is said before the training, not after it
            self._compare_data(data, self.record, key)
        return data

    def _data_of_method(self) -> dict[str, DataModule]:
        """Further data that the method's configuration names, by the name of the option."""
        return {
            key: self._data(f"method.{key}")
            for key, value in self.config["method"].items()
            if is_node_of(value, DataConfig)
        }

    def _compare_data(self, data: DataModule, record: Record, key: str) -> None:
        """Keep which data the run has seen, and refuse to go on with others."""
        own = key == "dataset"
        found, further = data.origin(), record.values.get("further_data", {})
        seen = record.values.get("data") if own else further.get(key)
        begun = self.run.is_trained or bool(self.run.checkpoints)
        if seen is not None and differ(seen, found) and begun and not key.startswith("eval."):
            self.job.check_data()  # names the file, where it is known
            raise UserError(
                f"dataset={data.name} in {data.root} is not what {self.run.id} was trained on; force=true starts anew"
            )
        record.write(**({"data": found} if own else {"further_data": {**further, key: found}}))  # now: it may be killed

    def _fit(self, data: DataModule, others: Mapping[str, DataModule]) -> None:
        fit = self.config["fit"]
        model = make_network(self.config, data.info)
        node = at_paths(self.config, "method")
        if self.record is not None:
            self.record.values.update(input_shape=list(data.info.shape), classes=len(data.info.classes))
        if node["fit"] == "none":
            self._take(model)
            return
        if node["fit"] == "closed_form":
            self._solve(build(node, model=model, info=data.info, **others), data)
            return
        with drawing_from(self.config["seed"], "method"):
            method: GradientMethod = build(node, model=model, info=data.info, log_every=fit["log_every"], **others)
        if self.config["accelerator"]["channels_last"]:
            model.to(memory_format=torch.channels_last)
        if self.config["accelerator"]["compile"]:
            model.compile()
        losses = FiniteLoss(fit["log_every"])
        trainer = self._trainer(
            StepDraws(self.config["seed"]),
            losses,
            SafePoint(self.run.checkpoint, fit["checkpoint_seconds"], self.stop, losses),
            *(watches := self._watch(model, data, losses)),
            progress := ProgressLine(),
            precision=self.config["accelerator"]["precision"],
            logger=self.logger.lightning() if self.logger else False,
            log_every_n_steps=fit["log_every"],
            max_epochs=fit["epochs"] or -1,
            max_steps=method.steps_for(fit["steps"]) if fit["steps"] else -1,
            gradient_clip_val=fit["gradient_clip"],
        )
        if resume := self.run.checkpoint if self.run.checkpoint.exists() else None:
            check_whole(resume)
        began = time.perf_counter()
        trainer.fit(method, datamodule=method.training_data(data), ckpt_path=resume, weights_only=True)
        # no first step: the run was stopped between its last step and its weights
        steps = 0 if progress.first_step is None else trainer.global_step - progress.first_step
        trained = time.perf_counter() - began - sum(watch.seconds for watch in watches)
        self._keep(method, trainer, steps * data.batch_size / trained)

    def _watch(self, model: nn.Module, data: DataModule, losses: FiniteLoss) -> list[Watch]:
        if self.config["fit"].get("watch") is None:
            return []
        context = Context(
            model,
            data,
            self.run.folder,
            self.config["seed"],
            self.config["method"]["name"],
            ending=self.ending,
        )
        evals = watched_evals(self.config)
        return [Watch(self.config["fit"]["watch"], evals, context, losses, self.record)]

    def _take(self, network: nn.Module) -> None:
        """Take a network as it is: its weights stay where they lie."""
        if not all_finite(network.state_dict().values()):
            raise UserError("the weights of the network are not finite")
        if self.record is not None:
            self.record.values.update(steps=0)
            self.run.given.touch()
            durable.sync(self.run.folder)

    def _solve(self, method: ClosedForm, data: DataModule) -> None:
        """Fit without steps: one pass over the training data."""
        method.data, method.safe, method.seconds = data, self.run.checkpoint, self.config["fit"]["checkpoint_seconds"]
        trainer = self._trainer(ProgressLine(self.config["method"]["name"]), logger=False)
        began = time.perf_counter()
        trainer.test(method.eval(), verbose=False)
        self._keep(method, trainer, data.size("train") / (time.perf_counter() - began))
        if self.record is not None:
            method.forget()

    def _keep(self, method: Method, trainer: L.Trainer, speed: float) -> None:
        state = method.weights()
        if not all_finite(state.values()):
            raise FloatingPointError(f"the trained weights are not finite; {SAME_AGAIN}")
        # before the weights, which say that nothing is left to do
        figures = method.conclude(self.run.folder, self.ending)
        if self.record is not None:
            self.record.values["figures"] = [str(path.relative_to(self.run.folder)) for path in figures]
            self.record.write(facts=method.facts())  # before the weights, as evals on any process read them
            save_whole({"state_dict": state}, self.run.weights)
            self.run.checkpoint.unlink(missing_ok=True)
            self.record.values["metrics"].update({f"derived/{key}": value for key, value in method.derived().items()})
            self.record.values.update(steps=trainer.global_step, samples_per_second=round(speed, 1))
        trainer.strategy.barrier("weights are written")

    def _evaluate(self, data: DataModule, pending: Mapping[str, Mapping[str, Any]]) -> None:
        given = self.run.given.exists()
        network = make_network(self.config, data.info, start=given).eval()
        if not given:
            check_whole(self.run.weights)
            load_state(network, self.run.weights)
        facts = (self.run.read("result.json") or {}).get("facts") or {}
        self.outcomes = self._stored_outcomes()
        groups = target_of(self.config["method"]).class_groups(facts, data.info.classes)
        for name, node in pending.items():
            with self._phase(f"eval/{eval_name(name, node)}"), drawing_from(self.config["seed"], "eval", name):
                own = data if node.get("data") is None else self._data(f"eval.{name}.data")
                suite: Suite = build(node)
                suite.check(own.info)
                suite.context = Context(
                    model=network,
                    data=own,
                    folder=self.run.folder,
                    seed=self.config["seed"],
                    method=self.config["method"]["name"],
                    facts=facts if own is data else {},
                    groups=groups if own is data else {},
                    earlier=usable_outcomes(node, self.outcomes.values()),
                    ending=self.ending,
                    progress=lambda items, what: track(items, what, visible=is_first()),
                )
                if LOGITS in find_schema(node["_schema_"]).needs:  # type: ignore[attr-defined]
                    check_classes(network, own)
                self._run_suite(suite, eval_name(name, node), node)

    def _run_suite(self, suite: Suite, name: str, node: Mapping[str, Any]) -> None:
        outcomes: dict[Split, Outcomes] = {}
        trainer = self._trainer(ProgressLine(name), logger=False)
        for number in range(suite.passes):
            for split in suite.splits:
                runner = SuiteRunner(suite, split, outcomes, number)
                trainer.test(runner, verbose=False)
        report = runner.report
        self.outcomes[name] = (node, outcomes)
        if self.record is None:
            return
        for split, found in outcomes.items():
            kept = {kind: value for kind, value in found.items() if kind not in suite.unsaved}
            save_whole(kept, self.run.folder / "outcomes" / f"{name}-{split}.pt")
        how = {
            "id": eval_id(node),
            "config": dict(node),
            "environment": environment(device_name(self.job), self.job.command),
        }
        rows = report.rows if name == suite.name else [row.led_by(name) for row in report.rows]
        if before := self.record.add(name, how, rows, report.figures):
            own = name.partition("@")[0]
            say(
                f"eval={own} had rows with {before}, which these replace; "
                f"to keep both, give one a name of its own: +eval@eval.{own}_2={suite.name}"
            )

    def _stored_outcomes(self) -> dict[str, tuple[Mapping[str, Any], dict[Split, Outcomes]]]:
        """By the name of each eval that ran before: its node, and its outcomes for each split."""
        found = {}
        for name, how in (self.run.read("result.json") or {}).get("evals", {}).items():
            files = (self.run.folder / "outcomes").glob(f"{glob.escape(name)}-*.pt")
            outcomes: Any = {path.stem.rpartition("-")[2]: load_whole(path) for path in files}
            found[name] = (how["config"], outcomes)
        return found

    def _trainer(self, *callbacks: L.Callback, **given: Any) -> L.Trainer:
        where = self.config["accelerator"]
        if self.job.processes > 1:
            given["strategy"] = DDPStrategy(
                process_group_backend=None if uses_gpu(self.job) else "gloo",
                find_unused_parameters=getattr(target_of(self.config["method"]), "in_stages", False),
            )
        if SLURMEnvironment.detect():
            given["plugins"] = [SLURMEnvironment(auto_requeue=False)]  # the launcher queues again, and no one else
        self.trainer = L.Trainer(
            accelerator=where["kind"],
            devices=where["devices"],
            num_nodes=where["nodes"],
            callbacks=[self.stop, *callbacks],
            default_root_dir=self.run.folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            sync_batchnorm=where["sync_batchnorm"],
            inference_mode=False,
            num_sanity_val_steps=0,
            **given,
        )
        return self.trainer


def check_two_classes(config: Mapping[str, Any], data: DataModule) -> None:
    """Raise UserError if a classifier is to tell apart images of one class."""
    method, model = part_of("method", config["method"]), part_of("model", config["model"])
    given = method.gives if "network" in method.gives else (*method.gives, *model.gives)
    if data.task == "classification" and LOGITS in given and len(data.info.classes) == 1:
        raise UserError(
            f"dataset={data.name} has one class, {data.info.classes[0]!r}; a classifier needs two or more: "
            "add images of another one, or choose more by dataset.classes"
        )


@torch.no_grad()
def check_classes(network: nn.Module, data: DataModule) -> None:
    """Raise UserError if a classifier does not take the images, or has another number of classes than the data."""
    if data.task != "classification" or not len(data.info.classes):
        return
    image = data.samples("test", torch.arange(1)).image
    try:
        logits = named(network(image)).get(LOGITS)
    except RuntimeError as error:
        raise UserError(
            f"the network does not take the images of dataset={data.name}, which are {tuple(image.shape[1:])}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if logits is not None and logits.shape[1] != len(data.info.classes):
        raise UserError(
            f"the network has {logits.shape[1]} classes; dataset={data.name} has {len(data.info.classes)}; "
            "choose data of the classes that it was trained on"
        )


def uses_gpu(job: Job) -> bool:
    """Whether the job runs on a GPU."""
    return job.config["accelerator"]["kind"] != "cpu" and torch.cuda.is_available()


def device_name(job: Job) -> str:
    """The accelerator's name, or the processor's architecture."""
    return torch.cuda.get_device_name() if uses_gpu(job) else f"cpu ({platform.machine()})"


def peak_memory(job: Job) -> int:
    """Peak memory in bytes: of the accelerator if the job uses one, else of this process."""
    if uses_gpu(job):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def quieten() -> None:
    """Hide warnings that the user can do nothing about."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*ended before the epoch ended.*",
        ".*is smaller than the logging interval.*",
        ".*`training_step` returned.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*GPU available but not used.*",
        ".*in eval mode at the start of training.*",  # frozen layers
        ".*broadcast_buffers.*",
        ".*`srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", message=message)
