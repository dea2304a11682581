"""Language models: a real HTTP server on loopback plays the endpoint, a tiny random Llama the local model."""

from __future__ import annotations

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import BaseModel

from recollect.config import load_settings
from recollect.errors import InvalidInput, SchemaBroken, Unavailable
from recollect.lm import OpenAICompatible, Scripted, Transformers, from_settings

KEY = "sk-very-secret-key"
ASK = [{"role": "user", "content": "Where does Ana live?"}]


class City(BaseModel):
    city: str
    sure: bool


GOOD = {"city": "Porto", "sure": True}


def chat(content, usage=True, finish="stop"):
    """The body of a good answer."""
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}],
    }
    if usage:
        body["usage"] = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    return 200, body


def failure(status, message, param=None):
    return status, {"error": {"message": message, "type": "x", "param": param, "code": None}}


class Server:
    """Answers the requests with the replies of a script, and the last of them for ever; keeps the requests."""

    def __init__(self):
        self.script, self.requests = [], []
        server = self

        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
                reply = server.script[min(len(server.requests), len(server.script)) - 1]
                status, content = reply(body) if callable(reply) else reply
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if isinstance(content, str) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def lm(server):
    lm = OpenAICompatible(server.url, "m", KEY, timeout_s=5, max_retries=2)
    yield lm
    if lm._client is not None:
        lm._client.close()


def test_a_reply_and_its_cost(server, lm):
    server.script = [chat("In Porto.")]
    reply = lm.complete(ASK, max_tokens=9, temperature=0.5)
    assert (reply.text, reply.parsed, reply.model, reply.estimated) == ("In Porto.", None, "m", False)
    assert (reply.input_tokens, reply.output_tokens) == (11, 7)
    assert 0 < reply.seconds < 5
    [request] = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["key"] == f"Bearer {KEY}"
    assert (request["messages"], request["max_tokens"], request["temperature"]) == (ASK, 9, 0.5)
    assert "response_format" not in request


def test_a_schema_is_asked_for_and_read(server, lm):
    server.script = [chat(json.dumps(GOOD))]
    assert lm.complete(ASK, City).parsed == City(**GOOD)
    [request] = server.requests
    form = request["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"] == {"name": "City", "schema": City.model_json_schema()}


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"city": "Porto", "sure": true}\n```',
        'Sure! Here it is: {"city": "Porto", "sure": true} I hope {this} helps.',
        '<think>perhaps {"city": "Lisbon", "sure": false}?</think>\n{"city": "Porto", "sure": true}',
        '{"city": "Porto", "sure": true}{"city": 3}',
        "{" * 300 + '{"city": "Porto", "sure": true}',
    ],
)
def test_json_is_found_in_other_text(text):
    assert Scripted([text]).complete(ASK, City).parsed == City(**GOOD)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_or_failing_server_is_tried_again(server, lm, status):
    server.script = [failure(status, "later"), failure(status, "later"), chat("In Porto.")]
    assert lm.complete(ASK).text == "In Porto."
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "words", "num_requests"),
    [
        (failure(429, "slow down"), ["lm.base_url:", "busy", "3 attempts", "slow down"], 3),
        (failure(500, "out of memory"), ["lm.base_url:", "failed in 3 attempts", "out of memory"], 3),
        (failure(401, f"Incorrect API key provided: {KEY}"), ["lm.api_key:", "RECOLLECT_LM_API_KEY"], 1),
        (failure(404, "model 'm' not found"), ["lm.model:", "does not know 'm'", "not found"], 1),
        (failure(400, f"{KEY} too long"), ["lm.model:", "refused", "*** too long"], 1),
        ((200, "<html>hello</html>"), ["lm.base_url:", "/v1"], 1),
        ((200, {"object": "list", "data": []}), ["lm.base_url:", "/v1"], 1),
    ],
)
def test_failures_are_explained_without_the_key(server, lm, answer, words, num_requests):
    server.script = [answer]
    with pytest.raises(Unavailable) as caught:
        lm.complete(ASK)
    assert all(word in str(caught.value) for word in words), caught.value
    assert KEY not in str(caught.value) + repr(lm)
    assert caught.value.__cause__ is None
    assert len(server.requests) == num_requests


def test_a_missing_key_is_named(server):
    server.script = [failure(401, "no key")]
    lm = OpenAICompatible(server.url, "m")
    with pytest.raises(Unavailable, match="asks for an API key"):
        lm.complete(ASK)
    lm._client.close()


def test_a_timeout_is_tried_again_then_explained(server):
    def slow(body):
        time.sleep(0.6)
        return chat("late")

    server.script = [slow, chat("In Porto.")]
    lm = OpenAICompatible(server.url, "m", timeout_s=0.2, max_retries=1)
    assert lm.complete(ASK).text == "In Porto."
    server.script = [slow]
    hasty = OpenAICompatible(server.url, "m", timeout_s=0.2, max_retries=0)
    with pytest.raises(Unavailable, match=r"lm.timeout_s: .* within 0.2 s in one attempt"):
        hasty.complete(ASK)
    lm._client.close()
    hasty._client.close()


def test_no_server_is_explained():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        lm = OpenAICompatible(url, "m", max_retries=0)
        with pytest.raises(Unavailable, match=r"lm.base_url: .* cannot be reached"):
            lm.complete(ASK)
        lm._client.close()


def test_a_broken_schema_is_shown_to_the_model_once(server, lm):
    server.script = [chat('{"city": "Porto"}'), chat(json.dumps(GOOD))]
    reply = lm.complete(ASK, City)
    assert reply.parsed == City(**GOOD)
    assert (reply.input_tokens, reply.output_tokens) == (22, 14)
    messages = server.requests[1]["messages"]
    assert messages[:2] == [*ASK, {"role": "assistant", "content": '{"city": "Porto"}'}]
    assert "in the field sure: Field required" in messages[2]["content"]
    assert '"title": "City"' in messages[2]["content"]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (chat('{"city": 3, "sure": true}'), "City: in the field city"),
        (chat("I do not know."), "City: it holds no JSON object"),
        (chat('{"city": "Po', finish="length"), "City: it was cut off at max_tokens"),
    ],
)
def test_a_schema_broken_twice_is_an_error(server, lm, second, words):
    server.script = [chat("{oops"), second]
    with pytest.raises(SchemaBroken, match=words):
        lm.complete(ASK, City)
    assert len(server.requests) == 2


def test_a_server_without_response_format_is_asked_in_the_prompt(server, lm):
    server.script = [failure(400, "response_format is not supported"), chat(json.dumps(GOOD))]
    assert lm.complete(ASK, City).parsed == City(**GOOD)
    assert lm.complete(ASK, City).parsed == City(**GOOD)
    assert len(server.requests) == 3
    assert "response_format" not in server.requests[2]
    assert "JSON schema" in server.requests[2]["messages"][-1]["content"]


def test_a_model_with_other_limits_is_served(server, lm):
    server.script = [
        failure(400, "Unsupported parameter: use 'max_completion_tokens' instead", "max_tokens"),
        failure(400, "Only the default is supported", "temperature"),
        chat("In Porto."),
    ]
    assert lm.complete(ASK, max_tokens=5).text == "In Porto."
    last = server.requests[-1]
    assert last["max_completion_tokens"] == 5
    assert not {"max_tokens", "temperature"} & set(last)


def test_uncounted_tokens_are_estimated(server, lm):
    server.script = [chat("In Porto, I am sure.", usage=False)]
    reply = lm.complete(ASK)
    assert (reply.input_tokens, reply.output_tokens, reply.estimated) == (5, 5, True)


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [{"role": "human", "content": "x"}]])
def test_messages_that_cannot_be_sent(messages):
    with pytest.raises(InvalidInput, match="messages:"):
        Scripted(["x"]).complete(messages)


def test_a_script():
    lm = Scripted(["one", GOOD, lambda messages: messages[-1]["content"].upper()])
    assert lm.complete(ASK).text == "one"
    assert lm.complete(ASK, City).parsed == City(**GOOD)
    assert lm.complete(ASK).text == "WHERE DOES ANA LIVE?"
    assert lm.calls == [ASK, ASK, ASK]
    with pytest.raises(Unavailable, match="ends after 3 replies"):
        lm.complete(ASK)


def test_from_settings(tmp_path):
    file = tmp_path / "recollect.toml"
    file.write_text("")
    assert from_settings(load_settings(file, {})) is None
    file.write_text('[lm]\nbase_url = "http://localhost:1/v1"\n')
    with pytest.raises(InvalidInput, match=r"lm.model: name the model"):
        from_settings(load_settings(file, {}))
    file.write_text('[lm]\nbase_url = "http://localhost:1/v1"\nmodel = "m"\ntimeout_s = 2.5\nmax_retries = 0\n')
    lm = from_settings(load_settings(file, {}))
    assert isinstance(lm, OpenAICompatible)
    assert (lm.base_url, lm.name, lm.timeout_s, lm.max_retries) == ("http://localhost:1/v1", "m", 2.5, 0)


@pytest.fixture(scope="module")
def tiny():
    """A random Llama of two layers and a word-level tokenizer for a dozen words."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<s>", "</s>", "<unk>", "system", "user", "assistant", ":", "where", "does", "ana", "live", "?", "porto"]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    core = tokenizers.Tokenizer(model)
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
    )
    return transformers.LlamaForCausalLM(config).eval(), tokenizer


def test_a_local_model_answers_and_counts(tiny):
    lm = Transformers(*tiny, name="tiny")
    ask = [{"role": "user", "content": "where does ana live ?"}]
    reply = lm.complete(ask, max_tokens=6)
    assert reply.input_tokens == 9  # user : where does ana live ? assistant :
    assert 0 < reply.output_tokens <= 6
    assert reply.model == "tiny"
    assert reply.text == lm.complete(ask, max_tokens=6).text
    with pytest.raises(InvalidInput, match="exceed the model's window of 512"):
        lm.complete(ask, max_tokens=510)
    with pytest.raises(SchemaBroken, match="tiny did not fit Small"):
        Transformers(*tiny, name="tiny").complete(ask, Small, max_tokens=2)


class Small(BaseModel):
    """A schema whose prompt is short."""

    a: int


def test_a_local_model_follows_its_chat_template(tiny):
    model, tokenizer = tiny
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}assistant :"
    try:
        ask = [{"role": "user", "content": "where"}, {"role": "user", "content": "live"}]
        reply = Transformers(model, tokenizer).complete(ask, max_tokens=2)
        assert reply.input_tokens == 6  # user : where live assistant :
    finally:
        tokenizer.chat_template = None


def test_a_local_model_that_is_not_there(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(Unavailable, match="cannot be loaded"):
        Transformers.from_pretrained(str(tmp_path / "none"))
