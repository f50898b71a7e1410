"""`fit`, `validate`, `test` and `predict`: Lightning's command line on our modules and our data.

Lightning is imported when one of them runs, so that ``talkhead --help`` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

TRAINING = {
    "fit": "train a module: landmark, emotion or video",
    "validate": "measure a checkpoint on the validation clips",
    "test": "measure a checkpoint on the test clips",
    "predict": "run a checkpoint on the test clips",
}
CONFIGS = Path(__file__).parent / "configs"


def train(arguments: list[str]) -> int:
    """Hand ``fit``, ``validate``, ``test`` or ``predict`` to Lightning's command line.

    Args:
        arguments: the verb and what follows it; ``--config NAME`` may name a shipped configuration.

    Returns:
        The exit code.
    """
    given = shipped_configs(arguments)
    run = training_cli()
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    try:
        run(given)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    except argparse.ArgumentError as error:
        raise ValueError(f"{short_refusal(str(error))}; see `talkhead {arguments[0]} --help`") from error
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning has saved a checkpoint and exits with 1
            raise KeyboardInterrupt from None
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def short_refusal(message: str) -> str:
    """Leave out of jsonargparse's message the types that were tried and the whole section that did not fit."""
    noise = ("Does not validate", "Subtypes:", "Errors:", "- Expected a <class 'NoneType'>", "Given value")
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line.removeprefix("- ") for line in lines if not line.startswith(noise))


def training_cli() -> Callable[[list[str]], Any]:
    """Return what runs Lightning's command line on a list of arguments."""
    import torch
    from lightning import LightningModule
    from lightning.pytorch.callbacks import LambdaCallback
    from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

    from talkhead.data.datamodule import MEADDataModule
    from talkhead.modules import emotion, landmark, video  # noqa: F401  (so that `--model VideoDiffusion` is known)

    class TrainingCLI(LightningCLI):
        """Our modules on our data; what a run writes goes below ``trainer.default_root_dir``."""

        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            self.config = parser.parse_args(args)

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_argument(
                "--float32_matmul_precision",
                type=Literal["highest", "high", "medium"],
                default="highest",
                help="of float32 matrix products on a GPU: 'high' computes them in TensorFloat-32",
            )

        def before_instantiate_classes(self) -> None:
            torch.set_float32_matmul_precision(self.config[self.subcommand].float32_matmul_precision)
            place_outputs(self.config[self.subcommand].trainer)
            model.update(self.config[self.subcommand].model.init_args.as_dict())

    model: dict[str, Any] = {}
    always = LambdaCallback(
        on_save_checkpoint=lambda trainer, module, checkpoint: describe_model(checkpoint, model),
    )

    def run(arguments: list[str]) -> TrainingCLI:
        return TrainingCLI(
            LightningModule,
            MEADDataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": always},
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


def place_outputs(trainer: Any) -> None:
    """Put checkpoints and logs below ``default_root_dir`` where the configuration does not say where they go.

    Lightning would put checkpoints into the log's numbered folder, where a later run's ``--ckpt_path last`` cannot
    find them.

    Args:
        trainer: the parsed ``trainer`` section; changed in place.
    """
    from jsonargparse import Namespace

    root = Path(trainer.default_root_dir or ".")
    callbacks = trainer.callbacks or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if callback.class_path.endswith(".ModelCheckpoint") and callback.init_args.dirpath is None:
            callback.init_args.dirpath = str(root / "checkpoints")
    if trainer.logger is None:
        log = Namespace(save_dir=str(root), name="logs")
        trainer.logger = Namespace(class_path="lightning.pytorch.loggers.CSVLogger", init_args=log)


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
    """Return the file that ``--config name`` means; see ``shipped_configs``."""
    if Path(name).is_file():
        return name
    shipped = {p.relative_to(CONFIGS).with_suffix("").as_posix(): p for p in sorted(CONFIGS.rglob("*.yaml"))}
    key = name.removesuffix(".yaml")
    if key not in shipped:
        raise FileNotFoundError(
            f"--config: there is no file {name!r} here and no shipped configuration of that name; "
            f"the shipped ones are {', '.join(shipped)}"
        )
    return str(shipped[key])
