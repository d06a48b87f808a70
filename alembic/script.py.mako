"""${message[:1].upper() + message[1:].rstrip(".")}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

"""
<%
    def body(code):
        """Without Alembic's remark that the commands were generated; an empty revision has none."""
        return "\n".join(line for line in (code or "pass").split("\n") if "# ### " not in line).strip()
%>
from credential_db.sqlite.operations import Operations

revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    ${body(upgrades)}


def downgrade(op: Operations) -> None:
    ${body(downgrades)}
