"""The HTML report: ``data`` reads, ``charts`` measures, ``page`` lays out and writes."""

from dataverse_sync.show.report.page import check_target, write_report

__all__ = ["check_target", "write_report"]
