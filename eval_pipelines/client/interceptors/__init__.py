"""Code around a request or an attempt: one file each, found by its name. What each does when is told by its functions.

An interceptor module offers `Spec`, the options an entry of evals.yaml may hold, and at least one of

- `request(spec, request) -> Request`: changes what is asked. Pure: applied when a benchmark is loaded, so that a digest
  stands for what is really sent, and asking and grading see the same requests. May raise UnsupportedError;
- `headers(spec, headers, environment) -> dict`: changes the headers of an endpoint, once per evaluation;
- `response(spec, request, response) -> Response`: changes what is graded. Pure: landed answers stay as they came, so
  changing it grades anew and asks nobody. `VERSION` is bumped when the same options give another answer;
- `remark(spec, request, response) -> str | None`: what is to be known of an answer (as it came), for its scores;
- `reuses(spec, request, response, now) -> bool`: whether a landed answer may be used again;
- `attempt(spec, context) -> Interceptor`: sees each attempt while it is asked (interception.py).

Optional: `ONCE = True` where a second one of the same name makes no sense; `undoes(spec, name, earlier) -> str | None`:
what of an earlier one, with its Spec, this one would undo.

A module is imported wherever the configuration is read: nothing heavier than pydantic and records at its top.
"""
