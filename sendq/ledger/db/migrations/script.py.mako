<%
    body = "\n".join(line for line in (upgrades or "pass").splitlines() if "# ###" not in line).strip()
%>"""${message.capitalize()}."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op${"\n" + imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${body}
