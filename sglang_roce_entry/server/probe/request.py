"""One GET by requests: loaded when a server has accepted a connection, not while nothing listens."""

from __future__ import annotations

from http.client import HTTPException

import requests
import urllib3


def status_of(url: str, timeout_s: float) -> int:
    """Return the status line's code; ``TimeoutError`` without one in time, ``ValueError`` if it is not HTTP."""
    # The certificate is for the Service's name, not for the loopback; kubelet's probes ignore it too.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    with requests.Session() as session:
        session.trust_env = False  # no proxy, no .netrc: the server is in this pod
        try:
            response = session.get(
                url, timeout=max(0.01, timeout_s), verify=False, allow_redirects=False, stream=True
            )
        except requests.Timeout as failure:
            raise TimeoutError from failure
        except (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError) as failure:
            raise ValueError(_innermost(failure)) from failure
        with response:
            return response.status_code


def _innermost(failure: BaseException) -> str:
    while failure.__context__ is not None:
        failure = failure.__context__
    return " ".join(f"{type(failure).__name__}: {failure}".split())[:120]
