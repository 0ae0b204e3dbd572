"""Prices calls with the Python package genai-prices, which computes in decimals.

Reads cases from the first file, a JSON object a line, and writes what each costs to the second: the
total in USD rounded to twelve decimals, or "error" when the usage is refused.
"""

import json
import sys
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot

EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)
SNAPSHOT = get_snapshot()


def cost(case):
    provider, model = SNAPSHOT.find_provider_model(case["name"], None, case["provider"], None)
    if model.id != case["model_id"]:
        return f"found model {model.id}"
    usage = {key: Decimal(quantity) for key, quantity in case["quantities"].items()}
    try:
        price = model.calc_price(
            Usage(**usage),
            provider,
            genai_request_timestamp=EPOCH + timedelta(microseconds=case["at"]),
            price_context=case["context"] or None,
        )
    except ValueError:
        return "error"
    with localcontext() as context:
        context.prec = 60
        total = price.total_price.quantize(Decimal("1e-12"), rounding=ROUND_HALF_EVEN)
    return f"{total:f}"


with open(sys.argv[1]) as cases, open(sys.argv[2], "w") as costs:
    for line in cases:
        costs.write(cost(json.loads(line)) + "\n")
