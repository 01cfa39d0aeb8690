"""Records -> one HTML file that a person with no ML training can act on."""

from gristmill.report.page import render as render
from gristmill.report.record import Candidate as Candidate
from gristmill.report.record import DataView as DataView
from gristmill.report.record import Finding as Finding
from gristmill.report.record import Prospect as Prospect
from gristmill.report.record import Rival as Rival
from gristmill.report.record import RunReport as RunReport
from gristmill.report.record import Span as Span
from gristmill.report.words import headline as headline

__all__ = ["Candidate", "DataView", "Finding", "Rival", "RunReport", "Span", "headline", "render"]
