"""The plane of the published CMDOP SDK 2.0 (contract.md §10). Importing it fills the route table.

What its decoders take was found out by giving `cmdop==2.0.0` one answer after another: they refuse
unknown keys, missing ones and nulls; it sends each request once, and of an error it shows only
the status.
"""

from cmdop_appliance.api.sdk2 import (
    asking as asking,
)
from cmdop_appliance.api.sdk2 import (
    messages as messages,
)
from cmdop_appliance.api.sdk2 import (
    roster as roster,
)
