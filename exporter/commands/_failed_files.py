"""What ``job`` says about failed files: those that the platform names, and how to find those that it does not."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from exporter.api.error_codes import in_words
from exporter.api.file_errors import FileError
from exporter.api.models import Operation, Outcome
from exporter.commands._job_list import ListedJob
from exporter.counting.values import JobRecord
from exporter.text import count

_MOST_LINES: Final = 100
_KEPT_SECONDS: Final = 25 * 86400.0
"""How long the platform surely keeps a job after its end: it promises "up to a month"."""
_TO_FIND_THEM: Final = (
    "To find them, compare the destination with the list of files that were submitted; submit what is missing as a new"
    " job."
)
_TO_FIND_UNDELETED: Final = (
    "To find them, look which of the files that were submitted still exist; submit those as a new job."
)


def failed_files(job: ListedJob, errors: Sequence[FileError]) -> Iterator[str]:
    """What the platform's error records of a job say, and what they do not."""
    failed, ended = job.record.last_failed, bool(job.record.outcome) or job.record.finished_on is not None
    if errors:
        yield "Failed files, as the platform reports them now:"
        lines = Counter(f"{_place(each)}{_in_words(each)}" for each in errors)
        for line, files in lines.most_common(_MOST_LINES):
            yield f"  {line} ({count(files, 'file')})" if files > 1 else f"  {line}"
        if len(lines) > _MOST_LINES:
            yield f"  {len(lines) - _MOST_LINES:,} more; --json has all"
    elif not ended:
        yield "The platform has error records of failed files when the job ends."
        return
    elif not failed:
        yield "The platform reports no failed file."
        if job.record.outcome == Outcome.INCOMPLETE:
            missing = job.total - job.record.last_completed
            yield f"{missing:,} of {count(job.total, 'file')} {_are(missing)} missing all the same."
            yield _to_find(job.record)
        return
    yield from _not_said(job.record, errors)


def _not_said(record: JobRecord, errors: Sequence[FileError]) -> Iterator[str]:
    without = record.last_failed - len(errors)
    unnamed = sum(not each.file for each in errors)
    if without > 0:
        yield (
            f"{without:,} of {count(record.last_failed, 'failed file')} {_have(without)} no error record: the platform"
            f" does not say {'which it is' if without == 1 else 'which they are'}, or why."
        )
    if unnamed:
        yield f"{unnamed:,} of {count(len(errors), 'error record')} {_have(unnamed)} no file name."
    if without > 0 or unnamed:
        yield _to_find(record)


def _to_find(record: JobRecord) -> str:
    return _TO_FIND_UNDELETED if record.operation == Operation.DELETE else _TO_FIND_THEM


def gone(record: JobRecord, now: float) -> str:
    """What it means that the platform does not have the job at *now*, Unix seconds."""
    if record.finished_on is not None and now - record.finished_on > _KEPT_SECONDS:
        return "the platform does not have the job any more; it keeps jobs for about a month after their end"
    if record.outcome == Outcome.LOST:
        return "the platform still answers that there is no such job; give its id to the platform's support"
    after = "has ended a short time ago" if record.outcome else "was unfinished when last seen"
    return (
        f"the platform answers that there is no such job, although it {after}; ask the platform's support, with its id"
    )


def _place(error: FileError) -> str:
    return f"{error.file}: " if error.file else ""


def _in_words(error: FileError) -> str:
    return f"{in_words(error.code)}: {error.message}" if error.message else in_words(error.code)


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _have(number: int) -> str:
    return "has" if number == 1 else "have"
