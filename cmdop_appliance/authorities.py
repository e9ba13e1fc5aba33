"""Where the authorities are that TLS trusts, when we run as one file."""

from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Final

_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # OpenSSL's own
_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Alpine
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine without the package
)


def find_authorities(environ: MutableMapping[str, str], files: Iterable[str] = _FILES) -> None:
    """Tell OpenSSL the system's own, unless the environment names others.

    The OpenSSL within the file looks where the system has them that the file was made on.
    """
    if not any(environ.get(name) for name in _VARIABLES):
        found = next((file for file in files if Path(file).is_file()), None)
        if found is not None:
            environ[_VARIABLES[0]] = found
