"""The local page: files in, an animation out, and nothing for other sites or careless hands."""

import http.client
import json
import socket
import threading
import time
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from untrained_model import write_bundle, write_video

from pipelines.animate.job import AnimateOptions, AnimateResult
from pipelines.webui import studio
from pipelines.webui.serve import serve
from preprocessing.errors import UserError

FAST = AnimateOptions(
    steps=1,
    guidance=1.0,
    weights="raw",
    device="cpu",
    max_frames=3,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture
def page(bundle, tmp_path):
    """A function that asks the page and returns status, headers and body."""
    ready, over = threading.Event(), threading.Event()
    addresses = []

    def on_ready(address):
        addresses.append(address)
        ready.set()

    server = threading.Thread(
        target=serve, args=(bundle, FAST, tmp_path / "out", 0, on_ready, over)
    )
    server.start()
    assert ready.wait(60)
    place = addresses[0].removeprefix("http://").rstrip("/")

    def ask(method, path, body=None, **headers):
        connection = http.client.HTTPConnection(place, timeout=60)
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    ask.place = place
    yield ask
    over.set()
    server.join()


def hand_in(ask, name, content):
    status, _, body = ask("PUT", f"/files?name={name}", content)
    assert status == 200
    return json.loads(body)["file"]


def start(ask, portrait, driving, **settings):
    wanted = {"portrait": portrait, "driving": driving, "settings": settings}
    status, _, body = ask("POST", "/jobs", json.dumps(wanted))
    return status, json.loads(body)


def wait_for(ask, job):
    for _ in range(600):
        view = json.loads(ask("GET", f"/jobs/{job}")[2])
        if view["state"] not in ("waiting", "running"):
            return view
        time.sleep(0.05)
    pytest.fail(f"the job did not end: {view}")


def pictures(tmp_path):
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "portrait.png")
    video = write_video(tmp_path / "driving.mp4", frames=6)
    return (tmp_path / "portrait.png").read_bytes(), video.read_bytes()


def test_two_files_become_a_video_that_a_player_can_jump_in(page, tmp_path):
    status, headers, html = page("GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    # The page asks nobody else for anything.
    assert b"http" not in html

    portrait, driving = pictures(tmp_path)
    files = hand_in(page, "my%20face.png", portrait), hand_in(page, "driving.mp4", driving)
    _, answer = start(page, *files, max_frames=2)
    view = wait_for(page, answer["job"])
    assert (view["state"], view["frames"], view["audio"]) == ("done", 2, "copied")
    assert view["path"] == str(tmp_path / "out" / "my_face_by_driving_1.mp4")

    _, headers, video = page("GET", f"/jobs/{answer['job']}/video")
    assert video == Path(view["path"]).read_bytes()
    status, headers, piece = page("GET", f"/jobs/{answer['job']}/video", Range="bytes=10-19")
    assert (status, headers["Content-Range"]) == (206, f"bytes 10-19/{len(video)}")
    assert piece == video[10:20]
    assert page("GET", f"/jobs/{answer['job']}/sheet")[2].startswith(b"\x89PNG")


def test_what_cannot_be_animated_is_told_by_the_name_it_came_with(page, tmp_path):
    portrait, _ = pictures(tmp_path)
    face = hand_in(page, "face.png", portrait)
    text = hand_in(page, "notes.mp4", b"no video")
    view = wait_for(page, start(page, face, text)[1]["job"])
    assert view["state"] == "failed"
    assert view["error"].startswith("notes.mp4 cannot be read as a video")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": "many"}, "whole number"),
        ({"weights": "raw"}, "no setting 'weights'"),
    ],
)
def test_settings_are_checked_before_anything_starts(page, settings, told):
    face = hand_in(page, "face.png", b"x")
    status, answer = start(page, face, face, **settings)
    assert status == 400
    assert told in answer["error"]
    assert start(page, face, "nothing")[0] == 400


def test_another_site_gets_nothing(page):
    assert page("GET", "/", Host="evil.example")[0] == 403
    assert page("PUT", "/files?name=a", b"x", Origin="http://evil.example")[0] == 403
    assert page("POST", "/jobs", b"{}", Origin="null")[0] == 403
    # Through a tunnel the port is another, and the name is still this machine's.
    assert page("GET", "/", Host="localhost:9999", Origin="http://localhost:9999")[0] == 200
    for path in ("/../etc/passwd", "/jobs/unknown", "/page.html"):
        assert page("GET", path)[0] == 404
    assert page("POST", "/jobs", b"[1]")[0] == 400


def test_a_file_that_is_cut_off_leaves_nothing(page, monkeypatch):
    folders = []
    real = studio.shutil.rmtree
    monkeypatch.setattr(
        studio.shutil, "rmtree", lambda path, **how: (folders.append(path), real(path, **how))
    )
    host, port = page.place.split(":")
    with socket.create_connection((host, int(port))) as line:
        head = f"PUT /files?name=a HTTP/1.1\r\nHost: {page.place}\r\nContent-Length: 100\r\n\r\n"
        line.sendall(head.encode() + b"x" * 10)
        line.shutdown(socket.SHUT_WR)
        assert b"90 bytes early" in line.makefile("rb").read()
    assert len(folders) == 1
    assert not folders[0].exists()


def test_an_animation_can_be_cancelled_and_the_next_one_is_made(page, monkeypatch, tmp_path):
    began = threading.Event()

    def slow(animator, portrait, driving, target, options, on_progress):
        began.set()
        for step in range(600):
            on_progress("denoising", step, 600)
            time.sleep(0.05)

    face = hand_in(page, "face.png", b"x")
    monkeypatch.setattr(studio, "animate", slow)
    first, second = (start(page, face, face)[1]["job"] for _ in range(2))
    assert began.wait(30)
    assert json.loads(page("GET", f"/jobs/{second}")[2])["state"] == "waiting"
    monkeypatch.setattr(
        studio,
        "animate",
        lambda *_: AnimateResult(
            tmp_path, tmp_path, 1, 25.0, 0.1, "1", "found", "none", "unsigned"
        ),
    )
    assert page("DELETE", f"/jobs/{first}")[0] == 200
    assert wait_for(page, first)["state"] == "cancelled"
    assert wait_for(page, second)["state"] == "done"


def test_a_port_that_is_taken_and_a_bundle_that_is_none_are_refused(bundle, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}"):
            serve(bundle, FAST, tmp_path, port, print)
    with pytest.raises(UserError, match="there is no bundle"):
        serve(tmp_path / "none", FAST, tmp_path, 0, print)
