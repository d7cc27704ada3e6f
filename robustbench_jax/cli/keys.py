"""keys: the API keys of a served model."""

import argparse
import json
from dataclasses import asdict

from robustbench_jax.bench import console
from robustbench_jax.serving.accounts import Account, Accounts


def new(options: argparse.Namespace) -> int:
    """The key goes to stdout, once; everything else to stderr."""
    limits = {name: getattr(options, name) for name in ("scopes", "rate", "burst", "budget", "expires")}
    limits = {name: value for name, value in limits.items() if value is not None}
    token = Accounts.load(options.accounts, new=True).add(options.name, **limits)
    return _shown(token, options)


def rotate(options: argparse.Namespace) -> int:
    return _shown(Accounts.load(options.accounts).rotate(options.name), options)


def disable(options: argparse.Namespace) -> int:
    Accounts.load(options.accounts).disable(options.name)
    console.say(f"{options.name}: disabled in {options.accounts}")
    return 0


def listed(options: argparse.Namespace) -> int:
    for account in Accounts.load(options.accounts):
        if options.json:
            print(json.dumps({name: value for name, value in asdict(account).items() if name != "key_hash"}))
        else:
            print(_line(account))
    return 0


def _shown(token: str, options: argparse.Namespace) -> int:
    print(token)
    console.say(f"{options.name}: this key is shown once and kept nowhere; its hash is in {options.accounts}")
    return 0


def _line(account: Account) -> str:
    state = "active" if account.active() else "disabled" if account.disabled else "expired"
    budget = "no limit" if account.budget is None else f"{account.budget:,} in all"
    limits = f"{account.rate:g}/s, {account.burst} at once, {budget}"
    until = f"until {account.expires}" if account.expires else "for ever"
    return f"{account.name}  {state}  {','.join(account.scopes)}  {limits}  {until}"
