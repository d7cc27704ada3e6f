"""A connection to a server of models: what it was asked and answered, how long it is waited for.

What an image was answered is remembered, so that an image that comes again, in the padded rows of a batch too, is asked
about once; of a server that draws its answers at random nothing is remembered. With a file, answers outlive the
process; its records are the first 16 bytes of the SHA-256 of an image and float32 logits, after a line that says whose
they are.
Shapes: B images, D input shape, C width of an answer: the classes, and one more of a model that may give no answer.
"""

import hashlib
import io
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from robustbench_jax.types import UserError

NPY = "application/octet-stream"
REMEMBERED = 2**17  # answers
TRIES = 3  # of a request whose connection broke
SECONDS = 60.0  # for one answer
DIGEST = 16
LEAST = np.float32(1e-30)  # of a probability that a server rounds to 0


@dataclass(frozen=True)
class About:
    """What a server says of itself. body: bytes of a request at most; images: in one."""

    identity: str
    shape: tuple[int, ...]
    classes: int
    answers: str
    rejects: bool
    stochastic: bool
    images: int
    body: int

    @property
    def width(self) -> int:
        return self.classes + self.rejects

    @property
    def at_once(self) -> int:
        return max(1, min(self.images, (self.body - 256) // (4 * int(np.prod(self.shape)))))


class Connection:
    """secret: the key, which is in nothing that this says. trouble: why the last request failed."""

    def __init__(self, url: str, secret: str, answers: str | None = None, patience: float = 60.0):
        self.url, self.patience = url, patience
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        try:
            self._client = httpx.Client(base_url=url, headers=headers, timeout=SECONDS)
        except (httpx.InvalidURL, ValueError) as error:
            raise UserError(f"http: {url} is no URL: {error}") from None
        self.trouble: UserError | None = None
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self.about = self._said()
        self._file = None if answers is None else self._kept(Path(answers))

    def ask(self, x: np.ndarray) -> np.ndarray:
        """Logits float32 [B, C] of images float32 [B, D]. UserError, kept as `trouble`, where there is no answer."""
        with self._lock:
            try:
                return self._asked(x) if self.about.stochastic else self._remembered(x)
            except UserError as error:
                self.trouble = error
                raise

    def _remembered(self, x: np.ndarray) -> np.ndarray:
        digests = [hashlib.sha256(image.tobytes()).digest()[:DIGEST] for image in np.ascontiguousarray(x)]
        found = {digest: self._known[digest] for digest in digests if digest in self._known}
        new = {digest: row for row, digest in enumerate(digests) if digest not in found}
        names, rows = list(new), list(new.values())
        for start in range(0, len(rows), self.about.at_once):  # what was answered is kept before more is asked
            part = slice(start, start + self.about.at_once)
            answered = dict(zip(names[part], self._asked(x[rows[part]]), strict=True))
            self._keep(answered)
            found |= answered
        return np.stack([found[digest] for digest in digests])

    def _keep(self, answered: dict[bytes, np.ndarray]) -> None:
        self._known |= answered
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        if self._file is not None:
            try:
                self._file.write(b"".join(digest + logits.tobytes() for digest, logits in answered.items()))
                self._file.flush()
            except OSError as error:
                raise UserError(f"http: cannot write {self._file.name}: {error.strerror}") from None

    def _asked(self, x: np.ndarray) -> np.ndarray:
        parts = [self._answer(x[i : i + self.about.at_once]) for i in range(0, len(x), self.about.at_once)]
        return np.concatenate(parts) if parts else np.zeros((0, self.about.width), np.float32)

    def _answer(self, x: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        np.save(file, x)
        headers = {"content-type": NPY, "accept": NPY}
        response = self._sent("POST", "/v1/predict", content=file.getvalue(), headers=headers)
        wanted = (len(x),) if self.about.answers == "labels" else (len(x), self.about.width)
        try:
            answer = np.load(io.BytesIO(response.content), allow_pickle=False)
            if answer.shape != wanted:
                raise ValueError(f"its shape is {list(answer.shape)}, not {list(wanted)}")
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{self.url} gave no answer that can be read: {_line(error)}") from None
        if self.about.answers == "labels":
            return np.eye(self.about.width, dtype=np.float32)[answer]  # -1, for no answer, is the last one
        return np.log(np.maximum(answer, LEAST)) if self.about.answers == "probabilities" else answer

    def _sent(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The response, waited for where the server says when to come again. UserError for any refusal."""
        waited, broken = 0.0, 0
        while True:
            try:
                response = self._client.request(method, path, **request)
            except httpx.HTTPError as error:
                broken += 1
                if broken >= TRIES:
                    raise UserError(f"{self.url} does not answer: {_line(error) or type(error).__name__}") from None
                time.sleep(0.1 * broken)
                continue
            if response.status_code == 200:
                return response
            problem = _problem(response)
            wait = _seconds(problem.get("retry_after"), response.headers.get("retry-after"))
            if wait is None or waited + wait > self.patience:
                late = f" (waited {waited:.3g} s of {self.patience:g})" if wait is not None else ""
                detail = problem.get("detail") or response.reason_phrase
                raise UserError(f"{self.url}: {response.status_code}: {_line(detail)}{late}")
            time.sleep(wait)
            waited += wait

    def _said(self) -> About:
        """What the server says of itself. UserError for anything else."""
        response = self._sent("GET", "/v1/model")
        try:
            said = response.json()
            about = About(**{name: said[name] for name in About.__dataclass_fields__})
            about = About(**vars(about) | {"shape": tuple(map(int, about.shape))})
            bytes.fromhex(about.identity)
            if about.answers not in ("scores", "probabilities", "labels") or about.width < 2 or not about.shape:
                raise ValueError("what it answers is not known")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.url} is no server of a model: {_line(error)}") from None
        return about

    def _kept(self, path: Path) -> Any:
        """The file of answers, opened to go on; what is in it is remembered."""
        head = f"robustbench-jax answers {self.about.identity} {self.about.answers} {self.about.width}\n".encode()
        size = DIGEST + 4 * self.about.width
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+b")
            file.seek(0)
            content = file.read()
            if content and not content.startswith(head):
                raise UserError(f"http: {path} holds answers of another model, or something else; choose another file")
            whole = (len(content) - len(head)) // size if content else 0
            file.truncate(len(head) + whole * size if content else 0)
            file.write(b"" if content else head)
            file.flush()
        except OSError as error:
            raise UserError(f"http: cannot keep answers in {path}: {error.strerror}") from None
        for row in range(whole):
            start = len(head) + row * size
            logits = np.frombuffer(content, np.float32, self.about.width, start + DIGEST)
            self._known[content[start : start + DIGEST]] = logits
        return file


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(*given: Any) -> float | None:
    """The first of them that is a number of seconds."""
    for value in given:
        try:
            return max(0.0, float(value))
        except (TypeError, ValueError):
            continue
    return None


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
