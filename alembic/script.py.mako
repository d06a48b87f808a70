"""${message[:1].upper() + message[1:].rstrip(".")}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

"""

% if "sa." in (upgrades or "") + (downgrades or ""):
import sqlalchemy as sa

% endif
${imports + "\n" if imports else ""}\
% if "op." in (upgrades or "") + (downgrades or ""):
from credential_db.sqlite.revising import op

% endif
revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
