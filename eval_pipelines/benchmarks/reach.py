"""Which statements of a Python file decide what one of its functions gives, read without running it."""

import ast
from collections import defaultdict
from collections.abc import Iterator

# by these a function may reach any name
_ANYTHING = {"globals", "eval", "exec"}
_BINDING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def reached(tree: ast.Module, roots: tuple[str, ...]) -> ast.Module:
    """The module with only those statements at its top that its functions `roots` need, in their order.

    A statement that defines no name, such as `random.seed(1)` or `TABLE.update(...)`, is needed once it speaks of a name
    that is. The whole module is, where names may come from anywhere (`eval`, `from x import *`).
    """
    defining: dict[str, list[int]] = defaultdict(list)
    effects: list[tuple[int, set[str]]] = []
    for place, statement in enumerate(tree.body):
        names = set(_defined(statement))
        if "*" in names:
            return tree
        for name in names:
            defining[name].append(place)
        if not names:
            effects.append((place, _spoken_of(statement)))
    found: set[int] = set()
    spoken, due = set(roots), [*roots]
    while due:
        name = due.pop()
        if name not in defining:  # a local name, or Python's own
            continue
        for place in (*defining[name], *(place for place, names in effects if name in names)):
            if place not in found:
                found.add(place)
                new = _spoken_of(tree.body[place]) - spoken
                spoken |= new
                due += new
    if _ANYTHING & spoken:
        return tree
    return ast.Module([tree.body[place] for place in sorted(found)], [])


def _spoken_of(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _defined(statement: ast.AST) -> Iterator[str]:
    """Names of the module that it binds; those inside a function or class are not."""
    if isinstance(statement, _BINDING):
        yield statement.name
        return
    if isinstance(statement, ast.Name) and isinstance(statement.ctx, ast.Store):
        yield statement.id
    elif isinstance(statement, ast.alias):
        yield statement.asname or statement.name.partition(".")[0]
    for part in ast.iter_child_nodes(statement):
        yield from _defined(part)
