"""Reports: what the record says, as pages for people. One self-contained HTML file each: no network, no script.

A report is one file in this folder, found by its name. It offers

    TITLE                               what it is, in a few words
    make(connection, options) -> ...    yields a Page for each file; nothing where there is nothing to show

Everything that a model or a server wrote is escaped where it is put into a page (see `_page`), and the pages' content
security policy forbids scripts and requests, should something ever slip through.
"""

from eval_pipelines.reports._page import Options, Page
from eval_pipelines.reports._write import Written, make, names, write_all, write_index

__all__ = ["Options", "Page", "Written", "make", "names", "write_all", "write_index"]
