"""The page of fer-demo: a photograph in; its faces, their expressions, probabilities and maps out."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import hypot
from pathlib import Path
from typing import Any, cast

import gradio as gr
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fer.inference.annotate import draw_faces
from fer.inference.faces import FaceDetector
from fer.inference.model import Model, Template
from fer.inference.outputs import ClassifiedFace, classify
from fer.inference.page.calls import LOOK, PICK, SHOW, printable
from fer.inference.page.uploads import find_upload
from fer.inference.photographs import Scene, SceneReader
from fer.views.heatmaps import overlay

_WELCOME = "Drop a photo, or take one with the camera: its faces appear here."
_NO_FACE = "No face was found. If the picture is a face cut out already, say so below the photo."
_NO_UPLOAD = "This picture was not uploaded, or is too old. Choose it again."
_HEIGHT = 360
# Most calls that may wait; more are refused.
_MOST_WAITING = 64
_LONGEST_EDGE = 1600
_FACE_EDGE = 256
# Seconds between searches for old files, and seconds after which a file is old.
_FORGET = (60, 3600)
_STYLE = f"""
.html-container:has(.notice) {{ padding: 0; }}
.notice {{ display: flex; align-items: center; justify-content: center; height: {_HEIGHT}px; padding: 1rem;
    border: 1px dashed var(--border-color-primary); border-radius: var(--block-radius); }}
.fault {{ border: 1px solid var(--error-border-color); background: var(--error-background-fill); }}
"""


@dataclass(frozen=True)
class Findings:
    """The faces of the photograph that a browser shows, from left to right."""

    faces: list[ClassifiedFace]
    cut_outs: list[NDArray[np.uint8]]
    """Pixels of each face, (3, size, size)."""
    scale: float
    """Pixels of the picture on the page for one of the photograph."""

    def nearest(self, x: float, y: float) -> int:
        """The face whose center is nearest to a pixel of the picture on the page."""

        def distance(number: int) -> float:
            left, top, width, height = self.faces[number].face.box
            return hypot(left + width / 2 - x / self.scale, top + height / 2 - y / self.scale)

        return min(range(len(self.faces)), key=distance)


class DemoPage:
    """Contents of the page and its actions, in ``blocks``, for any number of browsers.

    Args:
        model: classifies the faces, one photograph after the other.
        template: where landmarks lie in its faces, (5, 2) in units of their edge.
        detector: finds faces.
        folder: where uploads lie; no other file is read.
        title: names the model on the page.
        show_cam: whether maps are shown at first.
    """

    style = _STYLE

    def __init__(
        self,
        model: Model,
        template: Template,
        detector: FaceDetector,
        folder: Path,
        *,
        title: str,
        show_cam: bool,
    ) -> None:
        self._model = model
        self._folder = folder
        self._read_photograph = SceneReader(model.image_size, template, detector, keep_photographs=True)
        self._read_face = SceneReader(model.image_size, template, None)
        with gr.Blocks(title="fer-demo", delete_cache=_FORGET) as self.blocks:
            gr.HTML(f"<h2>Expressions of faces <small>by {escape(title)}</small></h2>")
            with gr.Row():
                with gr.Column(scale=2):
                    self._lay_out_input(show_cam)
                with gr.Column(scale=3):
                    self._lay_out_answer()
            self._connect()
        self.blocks.queue(max_size=_MOST_WAITING)

    def _lay_out_input(self, show_cam: bool) -> None:
        self._photo = gr.Image(label="Photo", type="filepath", height=_HEIGHT, buttons=[])
        self._is_face = gr.Checkbox(label="The picture is a face cut out already")
        self._with_cam = gr.Checkbox(
            show_cam, label="Show what speaks for the expression (class activation map): blue is little, red is much"
        )

    def _lay_out_answer(self) -> None:
        self._found = gr.State()
        self._notice = gr.HTML(_notice(_WELCOME))
        with gr.Column(visible=False) as self._answer:
            self._picture = gr.Image(label="Faces", format="jpeg", height=_HEIGHT, buttons=["fullscreen"])
            self._picker = gr.Radio(label="Show face, or click on it", interactive=True)
            with gr.Row():
                self._bars = gr.Label(label="Probabilities", min_width=240)
                self._face = gr.Image(label="Cut out", format="png", buttons=[])
                self._cam = gr.Image(format="png", buttons=[])

    def _connect(self) -> None:
        details = [self._bars, self._face, self._cam]
        look = gr.on(
            [self._photo.input, self._is_face.input, self._with_cam.input],
            self._look,
            [self._photo, self._is_face, self._with_cam],
            [self._photo, self._notice, self._answer, self._picture, self._picker, self._found, *details],
            preprocess=False,  # Gradio's own reading of a photo fails without saying why.
            trigger_mode="always_last",
            api_visibility="private",
        )
        show = self._picker.input(
            self._show_picked,
            [self._found, self._picker],
            details,
            preprocess=False,  # Gradio would log a number outside the choices as an internal error.
            api_visibility="private",
        )
        pick = self._picture.select(self._pick, self._found, [self._picker, *details], api_visibility="private")
        assert [event["id"] for event in (look, show, pick)] == [LOOK, SHOW, PICK]

    def _look(self, photo: object, is_face: bool, with_cam: bool) -> dict[Any, Any]:
        """Read a photograph, or another one, or the same in another way.

        Args:
            photo: whatever a client sends.
        """
        if photo is None:
            return self._nothing(_WELCOME)
        sent = cast(dict[str, object], photo) if isinstance(photo, dict) else {}
        path = find_upload(self._folder, sent.get("path"))
        if path is None:
            return self._nothing(_NO_UPLOAD, "fault") | {self._photo: None}
        scene = (self._read_face if is_face else self._read_photograph)(path)
        if scene.fault:
            fault = f"{printable(sent.get('orig_name')) or 'This picture'}: {scene.fault}. Choose another."
            return self._nothing(fault, "fault") | {self._photo: None}
        ((_, faces),) = classify(self._model, [scene], with_cam=with_cam)
        if not faces:
            return self._nothing(_NO_FACE)
        picture, scale = self._drawn(scene, faces)
        found = Findings(faces, scene.cut_outs, scale)
        choices = [(f"{number}: {face.caption}", number - 1) for number, face in enumerate(faces, start=1)]
        return {
            self._notice: gr.HTML(visible=False),
            self._answer: gr.Column(visible=True),
            self._picture: gr.Image(picture, visible=picture is not None),
            self._picker: gr.Radio(choices, value=0, visible=len(faces) > 1),
            self._found: found,
            **self._show(found, 0),
        }

    def _nothing(self, why: str, kind: str = "") -> dict[Any, Any]:
        return {
            self._notice: gr.HTML(_notice(why, kind), visible=True),
            self._answer: gr.Column(visible=False),
            self._found: None,
        }

    def _drawn(self, scene: Scene, faces: list[ClassifiedFace]) -> tuple[Image.Image | None, float]:
        """The picture for the page, none of a face that fills it, and its scale."""
        if scene.photograph is None:
            return None, 1.0
        picture = draw_faces(scene.photograph, faces, scene.transforms, self._model.image_size)
        width = picture.width
        picture.thumbnail((_LONGEST_EDGE, _LONGEST_EDGE))
        return picture, picture.width / width

    def _show(self, found: Findings, number: int) -> dict[Any, Any]:
        """Show one of the faces that were found."""
        face, cut_out = found.faces[number], found.cut_outs[number]
        heat = None
        if face.cam is not None:
            heat = _enlarged(overlay(torch.tensor(cut_out)[None], torch.from_numpy(face.cam)[None])[0].numpy())
        return {
            self._bars: gr.Label(face.probabilities, show_heading=len(found.faces) == 1),
            self._face: _enlarged(cut_out),
            self._cam: gr.Image(heat, label=f"CAM of {face.expression}", visible=heat is not None),
        }

    def _show_picked(self, found: Findings | None, number: int) -> dict[Any, Any]:
        """Show a face by its number; nothing happens where it has none, as on a page that has been open too long."""
        if found is None or not 0 <= number < len(found.faces):
            return cast(dict[Any, Any], gr.skip())
        return self._show(found, number)

    def _pick(self, found: Findings | None, click: gr.SelectData) -> dict[Any, Any]:
        if found is None:
            return cast(dict[Any, Any], gr.skip())
        number = found.nearest(*click.index)
        return {self._picker: number, **self._show(found, number)}


def _notice(text: str, kind: str = "") -> str:
    return f'<div class="notice {kind}">{escape(text)}</div>'


def _enlarged(face: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(face.transpose(1, 2, 0)).resize((_FACE_EDGE, _FACE_EDGE), Image.Resampling.BICUBIC)
