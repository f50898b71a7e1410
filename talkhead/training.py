"""`fit`, `validate`, `test` and `predict`: Lightning's command line on our modules and our data.

Lightning is imported when one of them runs, so that ``talkhead --help`` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from talkhead.one_line import one_line
from talkhead.parsing import mistyped, nearest

TRAINING = {
    "fit": "train a module: landmark, emotion, video, head or sync",
    "validate": "measure a checkpoint on the validation clips",
    "test": "measure a checkpoint on the test clips",
    "predict": "run a checkpoint on the test clips, and write what it makes of each",
}
EXAMPLES = """
examples:
  talkhead fit --config landmark --data.root cache                        trains; emotion, video, head and sync alike
  talkhead fit --config video --data.root cache --init_from bundled       from the bundled speaker's network
  talkhead fit --config video --config mine.yaml --data.root cache        the later file wins
  talkhead fit --config video --data.root cache --ckpt_path last          goes on where it stopped
  talkhead fit --config video --data.root cache --print_config            everything, ready to be edited
  talkhead fit --model.help VideoDiffusion                                what a module can be told
  talkhead test --config video --data.root cache --ckpt_path last         validate and predict alike"""
CONFIGS = Path(__file__).parent / "configs"
TERMINATED = 128 + 15
"""Exit code of a run that SIGTERM ended, as shells give it."""


def train(arguments: list[str]) -> int:
    """Hand ``fit``, ``validate``, ``test`` or ``predict`` to Lightning's command line.

    Args:
        arguments: the verb and what follows it; ``--config NAME`` may name a shipped configuration.

    Returns:
        The exit code.
    """
    given = shipped_configs(arguments)
    parsers: list[Any] = []
    run = training_cli(run_folder(given), parsers)
    from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

    try:
        with warnings.catch_warnings():
            # Lightning 2.6 asks torch 2.13's pytree in the old way: nothing that who trains could mend.
            warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\). is deprecated")
            run(given)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    except ValueError as error:  # jsonargparse wraps what a class that it makes refuses
        raise ValueError(short_refusal(of_worker(str(error)))) from error
    except argparse.ArgumentError as error:
        raise ValueError(
            f"{taught(str(error), arguments[0], parsers)}; see `talkhead {arguments[0]} --help`"
        ) from error
    except SIGTERMException:  # Lightning has saved a checkpoint
        print("talkhead: terminated", file=sys.stderr)
        return TERMINATED
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning has saved a checkpoint and exits with 1
            raise KeyboardInterrupt from None
        if {"-h", "--help"} & set(arguments):
            print(EXAMPLES)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except OSError as error:
        if (said := of_worker(str(error))) != str(error):
            raise OSError(said) from error
        raise explained(error) from error
    return 0


def of_worker(message: str) -> str:
    """Return what an error in a process that reads says, without the trace that torch puts before it."""
    kind = re.match(r"Caught (\w+) in DataLoader worker process", message)
    return message if kind is None else message.rpartition(f"\n{kind[1]}: ")[2].strip()


def explained(error: OSError) -> OSError:
    """Return the first fault where each attempt to save failed, and say whose room is meant where it is full."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and str(cause).startswith("checkpoint:"):
            return cause
        cause = cause.__context__
    if error.errno == errno.ENOSPC and not error.filename:
        return OSError(
            "trainer.default_root_dir: there is no room left below it for the log; make room, or choose another"
        )
    return error


def short_refusal(message: str) -> str:
    """Leave out of jsonargparse's message the types that were tried and the whole section that did not fit."""
    noise = ("Does not validate", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return " ".join(line for line in lines if not line.startswith(noise))


def taught(message: str, verb: str, parsers: Sequence[Any]) -> str:
    """Return jsonargparse's message in short, with what was probably meant.

    Args:
        message: its message.
        verb: such as ``fit``.
        parsers: of the verbs, which know their options.
    """
    options = [option for parser in parsers for action in parser._actions for option in action.option_strings]
    said = re.sub(rf"\b{verb}\.", "--", short_refusal(message))
    hints = []
    if "are required" in said:
        hints.append("--config landmark, emotion or video brings a model, `talkhead preprocess` makes a --data.root")
    for word in said.split() if said.startswith("unrecognized") else []:
        shipped = (CONFIGS / f"{word}.yaml").is_file()
        hints.append(f"did you mean --config {word}?" if shipped else mistyped(word, options))
    for path, name in re.findall(r"class_path '([\w.]+)': Option '(\w+)' is not accepted", said):
        home, _, owner = path.rpartition(".")
        taken = list(inspect.signature(getattr(importlib.import_module(home), owner)).parameters)
        hints.append(nearest(name, taken) or f"{owner} takes {', '.join(taken)}")
    for name in re.findall(r"Expected a dot import path string: (\w+)$", said):
        from talkhead.modules.training_module import TrainingModule

        known = [module.__name__ for module in TrainingModule.__subclasses__()]
        hints.append(nearest(name, known) or "give the whole path")
    return "; ".join(filter(None, [said, *hints]))


def training_cli(home: str | None = None, parsers: list[Any] | None = None) -> Callable[[list[str]], Any]:
    """Return what runs Lightning's command line on a list of arguments.

    Args:
        home: where a run writes that is told no ``trainer.default_root_dir``; None: the working folder.
        parsers: filled with those of the verbs.
    """
    import torch
    from lightning import LightningModule
    from lightning.pytorch.callbacks import LambdaCallback
    from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

    from talkhead.data.datamodule import MEADDataModule
    from talkhead.logs.predictions import KeepPredictions
    from talkhead.modules import emotion, landmark, video  # noqa: F401  (so that `--model VideoDiffusion` is known)
    from talkhead.modules.run import RunGuard, SaveConfig, check_size, outputs_of, settle_checkpoint
    from talkhead.modules.run_checkpoint import RunCheckpoint
    from talkhead.speaker.folder import find_folder
    from talkhead.speaker.start import start_from

    class TrainingCLI(LightningCLI):
        """Our modules on our data; what a run writes goes below ``trainer.default_root_dir``."""

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            """Describe the verb that is asked for alone: each takes a fifth of a second."""
            known = LightningCLI.subcommands()
            return {verb: known[verb] for verb in asked or known}

        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            self.config = parser.parse_args(args)
            self.typed = [word for word in args or () if isinstance(word, str)]

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            (parsers if parsers is not None else []).append(parser)
            parser.add_argument(
                "--float32_matmul_precision",
                type=Literal["highest", "high", "medium"],
                default="highest",
                help="of float32 matrix products on a GPU: 'high' computes them in TensorFloat-32",
            )
            parser.add_argument(
                "--init_from",
                type=str | None,
                default=None,
                help="start from the network of this speaker: `bundled` or a folder made by `talkhead export`",
            )

        def _parse_ckpt_path(self) -> None:
            """Let what is typed win: Lightning would take the module's arguments, and its classes, from the file."""

        def before_instantiate_classes(self) -> None:
            config = self.config[self.subcommand]
            torch.set_float32_matmul_precision(config.float32_matmul_precision)
            config.trainer.default_root_dir = config.trainer.default_root_dir or home
            own_checkpoints(config.trainer, f"{RunCheckpoint.__module__}.{RunCheckpoint.__name__}")
            if not any(word.startswith("--trainer.precision") for word in self.typed):
                settle_precision(config.trainer)
            model.update(config.model.init_args.as_dict())

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            return super().instantiate_trainer(**kwargs, **outputs_of(self._get(self.config_init, "trainer")))

        def settle(self) -> None:
            arguments = self.config_init[self.subcommand]
            arguments.ckpt_path = settle_checkpoint(self.subcommand, arguments.ckpt_path, self.trainer, self.model)
            if self.datamodule.modality != "audio":
                check_size(self.model, self.datamodule.facts)
            part = {"validate": "val", "test": "test", "predict": "test"}.get(self.subcommand)
            if part and not self.datamodule.names(part):
                raise ValueError(
                    f"data.{part}_fraction: {self.subcommand} has no clip to look at, the {part} part is empty; give "
                    f"--data.{part}_fraction as in training, above 0" + ", or --data.unseen" * (part == "test")
                )

        def before_fit(self) -> None:
            self.settle()
            arguments = self.config_init[self.subcommand]
            if arguments.init_from and not arguments.ckpt_path:  # a run that goes on has weights of its own
                start_from(find_folder(arguments.init_from), self.model)

        def before_predict(self) -> None:
            self.settle()
            self.config_init[self.subcommand].return_predictions = False  # they are written, clip by clip

        before_validate = before_test = settle

    asked: list[str] = []
    model: dict[str, Any] = {}
    always = LambdaCallback(on_save_checkpoint=lambda trainer, module, checkpoint: describe_model(checkpoint, model))

    def run(arguments: list[str]) -> TrainingCLI:
        asked[:] = [verb for verb in arguments[:1] if verb in TRAINING]
        return TrainingCLI(
            LightningModule,
            MEADDataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfig,
            trainer_defaults={"callbacks": [always, RunGuard(), KeepPredictions()]},
            seed_everything_default=0,
            # Without allow_abbrev=False a key that is cut short is taken for the whole one.
            parser_kwargs={"prog": "talkhead", "exit_on_error": False, "allow_abbrev": False},
            args=arguments,
        )

    return run


def describe_model(checkpoint: dict[str, Any], model: dict[str, Any]) -> None:
    """Add to a checkpoint's hyperparameters the networks that the module was made of, as class paths and arguments.

    With them ``load_from_checkpoint`` builds the same networks again, whatever their sizes.

    Args:
        checkpoint: what is about to be saved; changed in place.
        model: the arguments of the module as the command line parsed them.
    """
    checkpoint["hyper_parameters"] = {**model, **checkpoint.get("hyper_parameters", {})}


def settle_precision(trainer: Any) -> None:
    """Compute in float32 where bf16 is emulated, many times slower: a configuration does not know its machine.

    Args:
        trainer: the parsed ``trainer`` section; changed in place.
    """
    from lightning.pytorch.utilities import rank_zero_only

    from talkhead.devices import chosen_device, fast_precision

    if trainer.precision != "bf16-mixed" or trainer.accelerator not in ("auto", "cpu"):
        return
    trainer.precision = fast_precision(chosen_device(trainer.accelerator))
    if trainer.precision != "bf16-mixed":
        said = "talkhead: this machine has no bf16 arithmetic, so it trains in float32; --trainer.precision bf16-mixed"
        rank_zero_only(print)(f"{said} emulates it, many times slower", file=sys.stderr)


def own_checkpoints(trainer: Any, class_path: str) -> None:
    """Put our class in the place of Lightning's ``ModelCheckpoint``, with the same arguments.

    Args:
        trainer: the parsed ``trainer`` section; changed in place.
        class_path: of our class.
    """
    callbacks = trainer.callbacks or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if callback.class_path.endswith(".ModelCheckpoint"):
            callback.class_path = class_path
        if callback.class_path == class_path:
            callback.init_args.enable_version_counter = False  # last.ckpt is the newest, not last-v1.ckpt


def run_folder(arguments: Sequence[str]) -> str | None:
    """Return where the run lies whose saved ``config.yaml`` is among the arguments; None where there is none.

    A run saves it as RUN/logs/version_N/config.yaml, without the name of RUN: a folder that was moved is where it is.

    Args:
        arguments: command line arguments; of several the last counts.
    """
    flags = ("--config", "-c")
    named = [after for flag, after in zip(arguments, arguments[1:], strict=False) if flag in flags]
    named += [text.partition("=")[2] for text in arguments if text.partition("=")[0] in flags and "=" in text]
    for path in (Path(name).absolute() for name in reversed(named)):
        if path.name == "config.yaml" and path.parent.name.startswith("version_") and path.parents[1].name == "logs":
            return str(path.parents[2])
    return None


def shipped_configs(arguments: Sequence[str]) -> list[str]:
    """Replace the names of shipped configurations by their files.

    Args:
        arguments: command line arguments.

    Returns:
        The same with every ``--config paper/video`` pointing to the shipped ``paper/video.yaml``, unless there is a
        file of that name in the working folder.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a shipped configuration.
    """
    resolved: list[str] = []
    for argument in arguments:
        flag, equals, name = argument.partition("=")
        if resolved and resolved[-1] in ("--config", "-c"):
            argument = config_file(argument)
        elif flag == "--config" and equals:
            argument = f"--config={config_file(name)}"
        resolved.append(argument)
    return resolved


def config_file(name: str) -> str:
    """Return the file that ``--config name`` means; see ``shipped_configs``.

    Raises:
        ValueError: if it is a file that holds no configuration.
    """
    if Path(name).is_file():
        check_config(name)
        return name
    shipped = {p.relative_to(CONFIGS).with_suffix("").as_posix(): p for p in sorted(CONFIGS.rglob("*.yaml"))}
    key = name.removesuffix(".yaml")
    if key not in shipped:
        raise FileNotFoundError(
            f"--config: there is no file {name!r} here and no shipped configuration of that name; "
            f"the shipped ones are {', '.join(shipped)}"
        )
    return str(shipped[key])


def check_config(name: str) -> None:
    """Raise a ValueError where a file is no YAML of sections; its classes and arguments are checked by the parser."""
    import yaml

    try:
        content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = one_line(error, 160)
        raise ValueError(f"--config: '{name}' is no configuration ({reason}); give a YAML file") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"--config: '{name}' holds no configuration (such as model, data and trainer), but "
            f"{'nothing' if content is None else type(content).__name__}; give one made by --print_config"
        )
