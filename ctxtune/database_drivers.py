"""Whether Python has the driver of a database that an address names."""

from collections.abc import Callable

PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "asyncpg": "asyncpg",
    "pg8000": "pg8000",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "mysql.connector": "mysql-connector-python",
    "pyodbc": "pyodbc",
    "pymssql": "pymssql",
}
"""What to install, by the module that SQLAlchemy imports."""
_USUAL = {"postgresql": "psycopg2", "mysql": "pymysql", "mssql": "pymssql"}
"""A driver of each kind of database that MLflow can use."""


def missing_driver(address: str) -> str | None:
    """What is missing to use the database at an address, and what to do about it; None where nothing is known to be.

    Nothing is asked of the database itself.
    """
    name = address.partition("://")[0]
    kind = name.partition("+")[0]
    if kind not in _USUAL:
        return None
    from sqlalchemy.engine.url import URL
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    def imports(scheme: str) -> str | None:
        """The module that cannot be imported."""
        return _failing(lambda: URL.create(scheme).get_dialect().import_dbapi())

    try:
        module = imports(name)
    except (ArgumentError, NoSuchModuleError):
        return (
            f"SQLAlchemy knows no driver {name.partition('+')[2] or kind} for {kind}; write {kind}+{_USUAL[kind]}://..."
        )
    if module is None:
        return None
    message = (
        f"Python has no {module}, the driver that {name}:// stands for: pip install '{PACKAGES.get(module, module)}'"
    )
    usual = f"{kind}+{_USUAL[kind]}"
    return message if imports(usual) else f"{message}, or write {usual}://..., whose driver is installed"


def _failing(step: Callable[[], object]) -> str | None:
    try:
        step()
    except ModuleNotFoundError as error:
        return error.name
    return None
