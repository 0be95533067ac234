"""What scripts/real-vllm reads out of answers: it must not call well what a client would not."""

import json
import unittest

from lib.common import ROOT
from lib.vllm import checks  # noqa: F401 - registers them
from lib.vllm.modes import CHECKS
from lib.vllm.requests import Answer

FIXTURES = ROOT / "tests" / "fixtures" / "vllm-0.32"
STREAM = {"content-type": "text/event-stream; charset=utf-8"}


def recorded(name):
    headers = STREAM if name.endswith(".sse") else {"content-type": "application/json"}
    return Answer("id", 200, headers, (FIXTURES / name).read_text())


class AnswerTest(unittest.TestCase):
    def test_recorded_answers_are_well_and_tell_their_prompts(self):
        for name in ("chat.json", "completion.json", "responses.json", "messages.json", "chat-stream.sse"):
            with self.subTest(name):
                answer = recorded(name)
                self.assertTrue(answer.well(), answer)
                prompt, cached = answer.usage()
                self.assertGreater(prompt, 0)
                self.assertLessEqual(cached, prompt)

    def test_a_stream_with_an_error_event_or_without_an_end_is_not_well(self):
        error = {"error": {"message": "busy", "code": 503}}
        refused = f"data: {json.dumps(error)}\n\ndata: [DONE]\n\n"
        cut = recorded("chat-stream.sse").text.replace("data: [DONE]", "")
        for text in (refused, cut, ""):
            self.assertFalse(Answer("id", 200, STREAM, text).well(), text)

    def test_what_broke_off_or_was_refused_is_not_well(self):
        whole = recorded("chat.json")
        self.assertFalse(Answer("id", 200, whole.headers, whole.text, broken="broke off").well())
        self.assertFalse(Answer("id", 503, whole.headers, whole.text).well())

    def test_a_response_ends_with_its_last_event(self):
        created, done = (
            {"type": f"response.{word}", "response": {"error": None}} for word in ("created", "incomplete")
        )
        whole = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in (created, done))
        self.assertTrue(Answer("id", 200, STREAM, whole).well())
        self.assertFalse(Answer("id", 200, STREAM, whole[: whole.rindex("event:")]).well())


class ChecksTest(unittest.TestCase):
    def test_names_of_checks_differ_and_cases_exist(self):
        names = [check.name for check in CHECKS]
        self.assertEqual(len(names), len(set(names)))
        rows = (ROOT / "docs" / "compatibility.md").read_text()
        for check in CHECKS:
            for case in check.cases:
                self.assertRegex(rows, rf"(?m)^\| [B0-9, ]*\b{case}\b[B0-9, ]* \|", check.name)
