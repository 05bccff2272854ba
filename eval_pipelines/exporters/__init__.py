"""Exporters: the published numbers, into the tracker that people already look at. One file each, found by its name.

An exporter offers

    TO                                what `--to` names
    export(courses, target) -> Sent   brings a tracker up to date; done twice, it changes nothing

Only latest numbers travel, each with n, coverage, interval and versions; the step is that of the training. What needs a
tracker's own library imports it when it is used, and is an extra of this project.
"""

from eval_pipelines.exporters._courses import Course, Point, Sent, Target, courses, metric_key, values_of

__all__ = ["Course", "Point", "Sent", "Target", "courses", "metric_key", "values_of"]
