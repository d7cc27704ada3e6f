"""seal, sign: models that only some can read, and models that somebody vouches for."""

import argparse

from robustbench_jax import sealing, signing
from robustbench_jax.bench import console, workshop
from robustbench_jax.models import files, sealed, signed
from robustbench_jax.registry import discover, parse
from robustbench_jax.types import UserError


def seal(options: argparse.Namespace) -> int:
    """--model into the file --out, or the file --unseal into the directory --out."""
    if bool(options.model) == bool(options.unseal):
        raise UserError("seal: give --model to seal a model, or --unseal to take one out")
    if options.unseal:
        return _unseal(options)
    secret = sealing.secret_to_seal()
    key = signing.private_key(options.sign, signing.password()) if options.sign else None
    model, description = workshop.load_trained(options.model)
    if parse(description["architecture"]).name not in discover("model"):
        raise UserError(f"--model {options.model}: only a model of an architecture of this package can be sealed")
    description = signed.with_signature(description, key) if key else description
    sealed.save(options.out, model, description, secret)
    console.say(f"written: {options.out}; use it as --model 'sealed(\"{options.out}\")'")
    return 0


def _unseal(options: argparse.Namespace) -> int:
    if options.sign:
        raise UserError("--sign goes with --model; sign a directory with: robustbench-jax sign")
    files.save(options.out, *sealed.load(options.unseal))
    console.say(f"written: {options.out}, open; use it as --model 'checkpoint(\"{options.out}\")'")
    return 0


def sign(options: argparse.Namespace) -> int:
    """--key signs the directory, --public looks whether it is signed; 1 where it is not, or by another key."""
    if bool(options.key) == bool(options.public):
        raise UserError("sign: give --key to sign, or --public to check")
    if options.key:
        path = signed.sign(options.directory, signing.private_key(options.key, signing.password()))
        call = f'signed(checkpoint("{options.directory}"), "{options.key}.pub")'
        console.say(f"signed: {path}; use it as --model '{call}'")
        return 0
    key, (_, description) = signing.public_key(options.public), files.load(options.directory)
    try:
        signed.check(description, key, options.directory)
    except UserError as error:
        console.say(f"DIFFERS {error}")
        return 1
    console.say(f"{options.directory}: signature and arrays verify")
    return 0
