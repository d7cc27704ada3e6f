"""log: verify an audit log, or report what is in it."""

import argparse
import json

from robustbench_jax.serving.audit_log import Head, report, verify


def log_verify(options: argparse.Namespace) -> int:
    """1 where it does not verify; each place is one line."""
    verdict = verify(options.file, options.public_key, Head.parse(options.head) if options.head else None)
    print(json.dumps(verdict.as_dict()) if options.json else verdict)
    return 0 if verdict else 1


def log_report(options: argparse.Namespace) -> int:
    """1 where the log does not verify: the report says so, and is written all the same."""
    found = report(
        options.file,
        account=options.account,
        since=options.since,
        until=options.until,
        kinds=options.kind,
        public_key=options.public_key,
    )
    print(json.dumps(found.as_dict()) if options.json else found.markdown(), end="\n" if options.json else "")
    return 0 if found.verdict else 1
