"""The application: its addresses, and what each answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from ..errors import ImageError
from ..printable import printable
from . import tensors
from .limits import Limits, RefusalError
from .metrics import CONTENT_TYPE, Metrics
from .page import page
from .pool import Pool
from .tasks import Run, Task, sentence
from .uploads import Receiver, decompress, images_of

ENCODER = json.JSONEncoder(ensure_ascii=False)  # made once: json.dumps makes one per call
Endpoint = Callable[[Request], Awaitable[Response]]
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Service:
    """A model behind HTTP.

    Args:
        task: The model.
        name: What the model is called.
        workers: Threads that work on images.
        limits: What is accepted.

    Attributes:
        ready: Whether new requests should come; False once the service stops.
    """

    def __init__(self, task: Task, name: str, workers: int, limits: Limits) -> None:
        self._task, self._name, self._limits = task, name, limits
        self._pool = Pool(workers, limits, task.group)
        self._receiver = Receiver(limits)
        self._metrics = Metrics(name, task.name)
        self.ready = True

    def app(self) -> Starlette:
        """The application."""
        model = f"/v2/models/{self._name}"
        routes = [
            self._route("/", "GET", self._show_page),
            self._route("/predict", "POST", self._predict),
            self._route("/health", "GET", self._answer_live),
            self._route("/ready", "GET", self._answer_ready),
            self._route("/metrics", "GET", self._show_metrics),
            self._route("/v2", "GET", self._describe_server),
            self._route("/v2/health/live", "GET", self._answer_live),
            self._route("/v2/health/ready", "GET", self._answer_ready),
            self._route("/v2/repository/index", "POST", self._list_models),
        ]
        for path in (model, f"{model}/versions/1"):
            routes += [
                self._route(path, "GET", self._describe_model),
                self._route(f"{path}/ready", "GET", self._answer_ready),
                self._route(f"{path}/config", "GET", self._describe_config),
                self._route(f"{path}/infer", "POST", self._infer),
            ]
        errors: dict[Any, Any] = {
            HTTPException: self._explain_error,
            Exception: self._explain_failure,
        }
        app = Starlette(routes=routes, exception_handlers=errors)
        app.router.redirect_slashes = False  # it would redirect to the Host that the client says
        return app

    def count_refused(self, status: int, seconds: float) -> None:
        """Counts an answer to what was no request of HTTP."""
        self._metrics.add_request("other", status, seconds)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()

    def _route(self, path: str, method: str, endpoint: Endpoint) -> Route:
        async def measured(request: Request) -> Response:
            begin = time.perf_counter()
            self._metrics.in_flight += 1
            status = 500
            try:
                response = await self._refusing(endpoint, request)
                status = response.status_code
                return response
            finally:
                self._metrics.in_flight -= 1
                self._metrics.add_request(path, status, time.perf_counter() - begin)

        return Route(path, measured, methods=[method])

    async def _refusing(self, endpoint: Endpoint, request: Request) -> Response:
        """The answer of an endpoint, or its refusal as an answer."""
        try:
            return await endpoint(request)
        except RefusalError as error:
            return _json({"error": str(error)}, error.status, error.headers)
        except asyncio.CancelledError:  # nothing cancels a request but the second Ctrl+C
            stopped = RefusalError(503, "the service was stopped before the answer", close=True)
            return _json({"error": str(stopped)}, stopped.status, stopped.headers)

    async def _explain_error(self, request: Request, error: HTTPException) -> Response:
        """The answer where no address or method fits."""
        message = f"{error.detail}: {request.method} {printable(request.url.path):.200}"
        if request.url.path.startswith("/v2/models/"):
            message += f"; the model here is {self._name}, its version 1"
        begin = time.perf_counter()
        await self._receiver.discard(request)
        self.count_refused(error.status_code, time.perf_counter() - begin)
        return _json({"error": message}, error.status_code, dict(error.headers or {}))

    async def _explain_failure(self, request: Request, error: Exception) -> Response:
        """The answer where the program has a mistake; the server logs which."""
        return _json({"error": "the service has failed: its log says why"}, 500)

    async def _predict(self, request: Request) -> Response:
        """Images as the body or in a form -> an answer for each."""
        content_type = request.headers.get("content-type", "")
        body = await self._receiver.receive(request)
        try:
            encoding = request.headers.get("content-encoding", "")
            if content_type.startswith("multipart/") or encoding:
                work = partial(self._read_upload, body, content_type, encoding)
                images, fields = await self._pool.body(work)
            else:
                images, fields = images_of(body, content_type, self._limits)
            query = {name: request.query_params.getlist(name) for name in request.query_params}
            with self._counted_if_refused(images):
                options = self._task.checked({**fields, **query})
                answers = await self._pool.map(Run(self._task, options, plain=True), images)
        finally:
            self._receiver.release(len(body))
        refused = sum("error" in answer for answer in answers)
        self._metrics.add_images(len(answers) - refused, refused)
        message = {"model": self._name, "task": self._task.name, "images": answers}
        if refused == len(answers):
            return _json({"error": answers[0]["error"], **message}, 422)
        return _json(message)

    def _read_upload(self, body: bytes, content_type: str, encoding: str) -> Any:
        return images_of(decompress(body, encoding, self._limits), content_type, self._limits)

    async def _infer(self, request: Request) -> Response:
        """A request of the V2 protocol."""
        header_length = request.headers.get(tensors.HEADER_LENGTH)
        encoding = request.headers.get("content-encoding", "")
        body = await self._receiver.receive(request)
        try:
            infer_request = await self._pool.body(
                lambda: tensors.read_request(
                    decompress(body, encoding, self._limits), header_length, self._limits
                )
            )
            with self._counted_if_refused(infer_request.images):
                options = self._task.checked(infer_request.options)
                self._check_outputs(infer_request)
                try:
                    work = Run(self._task, options, plain=False)
                    results = await self._pool.map(work, infer_request.images)
                except ImageError as error:
                    raise RefusalError(400, sentence(error)) from None
                content, length = await self._pool.body(lambda: self._write(infer_request, results))
        finally:
            self._receiver.release(len(body))
        self._metrics.add_images(len(results), 0)
        if length is None:
            return Response(content, media_type="application/json")
        headers = {tensors.HEADER_LENGTH: str(length)}
        return Response(content, headers=headers, media_type="application/octet-stream")

    @contextmanager
    def _counted_if_refused(self, images: Sequence[Any]) -> Iterator[None]:
        """In the block, an error means that the images are refused."""
        try:
            yield
        except BaseException:
            self._metrics.add_images(0, len(images))
            raise

    def _check_outputs(self, request: tensors.InferRequest) -> None:
        for name in request.outputs:
            if name not in self._task.outputs:
                known = ", ".join(self._task.outputs)
                raise RefusalError(400, f"no output {printable(name)!r:.80}: the model has {known}")

    def _write(self, request: tensors.InferRequest, results: list[Any]) -> tuple[bytes, int | None]:
        computed = self._task.tensors(results)
        names = list(request.outputs) or list(self._task.outputs)[: self._task.answered]
        for name in names:
            if name not in computed:
                raise RefusalError(
                    400, f"{name} needs images of one size: send one at a time, or ask for mask_png"
                )
        chosen = {name: (self._task.outputs[name][0], computed[name]) for name in names}
        return tensors.write_answer(self._model(), chosen, request)

    def _model(self) -> dict[str, Any]:
        return {"model_name": self._name, "model_version": "1"}

    async def _describe_server(self, request: Request) -> Response:
        extensions = ["binary_tensor_data", "model_configuration", "model_repository"]
        return _json(
            {"name": "mobilenetv2", "version": version("mobilenetv2"), "extensions": extensions}
        )

    async def _describe_model(self, request: Request) -> Response:
        def described(values: dict[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
            return [{"name": n, "datatype": d, "shape": shape} for n, (d, shape) in values.items()]

        message = {"name": self._name, "versions": ["1"], "platform": "mobilenetv2"}
        inputs, outputs = described(tensors.INPUTS), described(self._task.outputs)
        return _json({**message, "inputs": inputs, "outputs": outputs})

    async def _describe_config(self, request: Request) -> Response:
        def described(values: dict[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
            return [
                {"name": n, "data_type": f"TYPE_{'STRING' if d == 'BYTES' else d}", "dims": dims}
                for n, (d, dims) in values.items()
            ]

        inputs = [{**entry, "optional": True} for entry in described(tensors.INPUTS)]
        message = {"name": self._name, "platform": "mobilenetv2", "backend": "mobilenetv2"}
        outputs = described(self._task.outputs)
        return _json({**message, "max_batch_size": 0, "input": inputs, "output": outputs})

    async def _list_models(self, request: Request) -> Response:
        return _json([{"name": self._name, "version": "1", "state": "READY", "reason": ""}])

    async def _answer_live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _answer_ready(self, request: Request) -> Response:
        message = {"name": self._name, "ready": self.ready}
        return _json(message, 200 if self.ready else 503)

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(self._pool.pending), media_type=CONTENT_TYPE)

    async def _show_page(self, request: Request) -> Response:
        language = request.query_params.get("lang") or request.headers.get("accept-language", "")
        content = page(self._name, self._task.name, language)
        headers = {"content-security-policy": PAGE_POLICY, "x-content-type-options": "nosniff"}
        return HTMLResponse(content, headers={**headers, "vary": "accept-language"})


def _json(message: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = ENCODER.encode(message).encode(errors="replace")
    return Response(content, status, headers, media_type="application/json")
