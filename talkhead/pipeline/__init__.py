"""From one portrait and one recording to a talking-head video: inference only, one way in."""

from talkhead.face.portrait import Portrait
from talkhead.pipeline.demonstration import demo
from talkhead.pipeline.stages import Result, Stream
from talkhead.pipeline.talking_head import DEFAULTS, TalkingHeadPipeline
from talkhead.progress import progress_bar
from talkhead.speaker.folder import export_pipeline

__all__ = ["DEFAULTS", "Portrait", "Result", "Stream", "TalkingHeadPipeline", "demo", "export_pipeline", "progress_bar"]
