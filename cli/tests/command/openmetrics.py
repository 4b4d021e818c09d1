"""Reads metrics from stdin with the reference parser of OpenMetrics; prints {name: type} of the families with samples as JSON."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = {f.name: f.type for f in text_string_to_metric_families(sys.stdin.read()) if f.samples}
print(json.dumps(families))
