"""Reads grafana.json as Grafana's types and PromQL's grammar have it; `check` runs it with the packages of requirements.txt.

The types are the SDK's that Grafana generates from its schemas, panels and queries of their plugins included. What is read
is written again: a field that is not there any more has no type, and Grafana would not look at it.
"""

import json
import sys
from pathlib import Path

import promql_parser
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

# Of variables: the schema has no `definition`, which Grafana shows in the list of variables and writes itself.
UNTYPED = {"definition"}
# What Grafana puts in for its variables: any duration and name do.
VARIABLES = {"$__rate_interval": "1m", "$model": "model"}


def differences(wanted, found, place=""):
    """Where `found` does not have what `wanted` has."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            if key in found:
                yield from differences(value, found[key], f"{place}.{key}")
            elif key not in UNTYPED:
                yield f"{place}.{key}"
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (one, other) in enumerate(zip(wanted, found)):
            yield from differences(one, other, f"{place}[{number}]")
    elif wanted != found:
        yield place


def main():
    plugins.register_default_plugins()
    given = json.loads(Path(__file__).with_name("grafana.json").read_text())
    typed = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
    unknown = list(differences(given, typed))
    if unknown:
        sys.exit(f"grafana.json has what Grafana's types have not: {', '.join(unknown)}")
    queries = [target["expr"] for panel in given["panels"] for target in panel["targets"]]
    for query in queries:
        for name, value in VARIABLES.items():
            query = query.replace(name, value)
        try:
            promql_parser.parse(query)
        except ValueError as error:
            sys.exit(f"{query}: {error}")
    if not queries:
        sys.exit("grafana.json has no query")
    print(f"ok the dashboard: {len(given['panels'])} panels as Grafana's types have them, {len(queries)} queries of PromQL")


main()
