"""The names in Kubernetes: of the API, of labels, of a crew's objects, and what a worker's pod agrees on with them.

One function or attribute per name. Pure: no I/O.
"""

from __future__ import annotations

from typing import Final

API_GROUP: Final = "watchbill.dev"
API_VERSION: Final = "v1alpha1"

FIELD_MANAGER: Final = "watchbill"
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_CREW: Final = f"{API_GROUP}/crew"
LABEL_REVISION: Final = f"{API_GROUP}/revision"
ANNOTATION_OWNER: Final = f"{API_GROUP}/owner"
"""Annotation of a crew's record in the store: the operator that wrote it."""
ANNOTATION_ROTATE: Final = f"{API_GROUP}/rotate-redis-user"
"""Annotation of a Crew: another value has the password of its user of the store replaced. Its Secret names the value
that was handled last."""
ANNOTATION_ROTATED_AT: Final = f"{API_GROUP}/rotated-at"
ANNOTATION_FORMER: Final = f"{API_GROUP}/former-password-sha256"
"""Annotations of the Secret: when its password was made, and the hash of the one before."""
WORKER_CONTAINER: Final = "worker"
WORKER_HEALTH_PORT: Final = 8080
REDIS_SECRET: Final = "watchbill-redis"  # noqa: S105 - the name of a Secret
REDIS_SECRET_KEY: Final = "url"  # noqa: S105
DELIVERY_SECRETS: Final = "/etc/watchbill/delivery"
"""The folder in a worker's pod where the Secrets of destinations are mounted: `<secret>/<key>`."""
WORKER_SELECTOR: Final = f"{LABEL_MANAGED_BY}=watchbill,{LABEL_COMPONENT}=worker"


def worker_deployment(crew: str, revision: str) -> str:
    """One Deployment per template revision."""
    return f"{crew}-{revision}"


def redis_secret(crew: str) -> str:
    """The Secret with the credential of the crew's own user of the store."""
    return f"{crew}-redis"


def worker_service_account(crew: str) -> str:
    return f"{crew}-worker"
