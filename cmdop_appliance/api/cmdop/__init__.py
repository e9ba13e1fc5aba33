"""The /api/v1 plane, one module per noun. Importing this package fills the route table."""

from cmdop_appliance.api.cmdop import (
    api_keys as api_keys,
)
from cmdop_appliance.api.cmdop import (
    audit as audit,
)
from cmdop_appliance.api.cmdop import (
    backups as backups,
)
from cmdop_appliance.api.cmdop import (
    batches as batches,
)
from cmdop_appliance.api.cmdop import (
    commands as commands,
)
from cmdop_appliance.api.cmdop import (
    deliveries as deliveries,
)
from cmdop_appliance.api.cmdop import (
    downloads as downloads,
)
from cmdop_appliance.api.cmdop import (
    enrolment_tokens as enrolment_tokens,
)
from cmdop_appliance.api.cmdop import (
    events as events,
)
from cmdop_appliance.api.cmdop import (
    files as files,
)
from cmdop_appliance.api.cmdop import (
    live as live,
)
from cmdop_appliance.api.cmdop import (
    machine_upgrades as machine_upgrades,
)
from cmdop_appliance.api.cmdop import (
    machines as machines,
)
from cmdop_appliance.api.cmdop import (
    metrics as metrics,
)
from cmdop_appliance.api.cmdop import (
    schedules as schedules,
)
from cmdop_appliance.api.cmdop import (
    sessions as sessions,
)
from cmdop_appliance.api.cmdop import (
    sign_ins as sign_ins,
)
from cmdop_appliance.api.cmdop import (
    terminals as terminals,
)
from cmdop_appliance.api.cmdop import (
    upgrades as upgrades,
)
from cmdop_appliance.api.cmdop import (
    uploads as uploads,
)
from cmdop_appliance.api.cmdop import (
    webhooks as webhooks,
)
from cmdop_appliance.api.cmdop import (
    workspaces as workspaces,
)
