"""The encoder all-MiniLM-L6-v2, three times: in numpy to be read, and as ONNX graphs in float32 and in int8 to be run.

A BERT of 6 layers, 12 heads and width 384: embeddings, then in each layer attention and a feed-forward block of width
1536, each followed by a sum with its input and a layer normalisation. `forward` is the specification; `float32_graph` is
equal to it, and `int8_graph` does its four products a layer in 8-bit integers.

The int8 graph. A weight matrix has a step for each output (7 bits: without VNNI instructions, sums of two products of 8-bit
numbers overflow). Inputs are 8-bit with one fixed step a product, so that a text's vector does not depend on the texts beside
it in a batch. A few channels are ten times as wide as the others; so channel k is divided by
    smooth_k = reach_k ** a / (largest |weight| of column k) ** (1 - a)
and its weights are multiplied by it, where reach is the largest value seen over CALIBRATION texts (SmoothQuant,
arXiv:2211.10438, 2022, with a = 0.75 and 0.65 before the wide layer, where that is nearest to float32). Attention,
normalisations and GELU stay in float32.

Papers: MiniLM, arXiv:2002.10957 (2020); fine-tuned for sentences as in Sentence-BERT, arXiv:1908.10084 (2019).
Cost: 21 million multiplications and additions a token beside attention; 90 MB in float32, 23 MB in int8.

Shapes: B texts, T tokens of the longest, D 384.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from recollect.store.onnx_file import Graph

NUM_LAYERS = 6
NUM_HEADS = 12
DIM = 384
MAX_TOKENS = 256  # the length that the model was tuned for, with its two marks
Weights = Mapping[str, np.ndarray]

_EPSILON = 1e-12
_FUSED = "com.microsoft"  # operators that onnxruntime adds to ONNX
_WEIGHT_LIMIT = 63  # 7 bits with sign
_SMOOTHING = {"attention.self": 0.75, "attention.output.dense": 0.75, "intermediate.dense": 0.65, "output.dense": 0.75}

CALIBRATION = """
Hi! How have you been? It has been ages since we last talked.
I moved to Lisbon in May and I still can't believe how bright the mornings are here.
Thanks, that means a lot to me. I was really nervous before the interview, but it went well!
What did you do last weekend?
We took the kids to the lake on Saturday, made a fire, and my daughter caught her first fish.
lol no way, send me a pic
My doctor said the blood test was fine, but I should come back in six weeks.
When is Maria's birthday, and what did she want as a present?
Remember that the meeting with the landlord is on 14 March 2024 at 9:30 am.
ok
The deploy failed with exit code 137 because the container ran out of memory; raise the limit to 4 GiB and try again.
def area(radius): return 3.14159 * radius ** 2
SELECT name, COUNT(*) FROM orders WHERE created_at > '2023-01-01' GROUP BY name;
Traceback (most recent call last): File "main.py", line 12, in <module> KeyError: 'user_id'
The committee approved the budget of $1,250,000 for the next fiscal year, an increase of 4.5 percent.
She was born in Nairobi in 1987, studied chemistry in Lyon, and has worked in Toronto since 2015.
Photosynthesis turns carbon dioxide and water into glucose and oxygen, using the energy of light.
Which of the two restaurants did he prefer, and why?
I feel so tired these days... maybe I should see someone about it.
Congratulations on the new job!!! You totally deserve it.
Dear diary, today was the worst day of the whole trip: rain, a lost passport and no hotel.
Guten Morgen, wie geht es dir? Ich habe gestern lange gearbeitet.
Je voudrais un billet pour Marseille, s'il vous plait.
Manana vamos a la playa con mis primos y mi abuela.
Add two eggs, 200 g of flour and a pinch of salt; bake for 35 minutes at 180 degrees.
The court held that the contract was void because neither party had signed the annex.
https://example.org/docs/install?version=2.1#linux
Note to self: call the bank, renew the passport, water the plants, buy batteries (AA).
He never told anyone about the letter that he found in the attic after his grandfather died.
Who won the match between Brazil and Germany in 2014?
1. Open the settings. 2. Choose Network. 3. Turn off the proxy. 4. Restart the router.
My favourite book is a novel about two sisters who run a lighthouse on a remote island.
Yes, exactly! That's what I meant :)
The patient denies chest pain, shortness of breath, fever or chills.
Our dog Biscuit hates thunderstorms, so we put on loud music and sit under the table with him.
Bitcoin fell below $20,000 on Tuesday as investors sold risky assets.
I've been practising the violin for three months now, about twenty minutes a day.
Do you want me to pick up anything from the store on my way home?
?
Thanks!
Take care! Bye for now!
Sure.
Agreed!
Good night, see you tomorrow!
Paris
2019
Zygote, quixotic, onomatopoeia, xylophone, bureaucracy, rendezvous, Tchaikovsky, Reykjavik.
""".strip().split("\n")


def forward(weights: Weights, ids: Sequence[int]) -> np.ndarray:
    """The last hidden states, float32 (T, D), of one text's token ids."""

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        weight, bias = _linear_weights(weights, name)
        return x @ weight.T + bias

    def normalise(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        scale, shift = _pair(weights, name)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + _EPSILON) * scale + shift

    num_tokens = len(ids)
    x = weights["embeddings.word_embeddings.weight"][list(ids)] + _positions(weights)[:num_tokens]
    x = normalise(x, "embeddings.LayerNorm")
    for layer in _layers():
        heads = linear(x, f"{layer}.attention.self").reshape(num_tokens, 3, NUM_HEADS, -1).transpose(1, 2, 0, 3)
        query, key, value = heads  # each (heads, T, D / heads)
        match = query @ key.transpose(0, 2, 1) / np.sqrt(DIM // NUM_HEADS)
        match = np.exp(match - match.max(-1, keepdims=True))
        attended = (match / match.sum(-1, keepdims=True) @ value).transpose(1, 0, 2).reshape(num_tokens, DIM)
        x = normalise(x + linear(attended, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        wide = _gelu(linear(x, f"{layer}.intermediate.dense"))
        x = normalise(x + linear(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x.astype(np.float32)


def float32_graph(weights: Weights, watched: dict[str, str] | None = None) -> bytes:
    """A model file equal to `forward`: ids and mask, int32 (B, T), to hidden, float32 (B, T, D); mask is 1 at tokens.

    With `watched`, the input of each product is an output too, (B * T, 1, its width), and `watched` maps the product's
    name to the output's.
    """
    graph = Graph({"": 17, _FUSED: 1})

    def words(ids: str) -> str:
        return graph.node("Gather", [graph.weight(weights["embeddings.word_embeddings.weight"]), ids])

    def linear(x: str, name: str) -> str:
        weight, bias = _linear_weights(weights, name)
        if watched is not None:
            watched[name] = x
            graph.output(x, "float32", ["B * T", 1, weight.shape[1]])
        return graph.node("Add", [graph.node("MatMul", [x, graph.weight(weight.T)]), graph.weight(bias)])

    return _encoder(graph, weights, words, linear)


def int8_graph(weights: Weights, seen: Mapping[str, np.ndarray]) -> bytes:
    """A model file near to `forward`, with the inputs and output of `float32_graph`.

    `seen` holds, by name, the inputs of each product over CALIBRATION, (tokens, width).
    """
    graph = Graph({"": 17, _FUSED: 1})

    def words(ids: str) -> str:
        table, steps = _rounded(weights["embeddings.word_embeddings.weight"], 127)
        rows = graph.node("Cast", [graph.node("Gather", [graph.weight(table), ids])], to=1)
        return graph.node("Mul", [rows, graph.node("Gather", [graph.weight(steps), ids])])

    def linear(x: str, name: str) -> str:
        weight, bias = _linear_weights(weights, name)
        values = seen[name]
        power = _SMOOTHING[name.split(".", 3)[3]]
        smooth = np.maximum(np.abs(values).max(0), 1e-3) ** power / np.maximum(np.abs(weight).max(0), 1e-6) ** (
            1 - power
        )
        rounded, steps = _rounded(weight * smooth, _WEIGHT_LIMIT)
        low, high = min((values / smooth).min(), 0.0), (values / smooth).max()
        step = graph.weight(np.float32((high - low) / 255))
        zero = graph.weight(np.uint8(np.rint(-low * 255 / (high - low))))
        x = graph.node("Mul", [x, graph.weight((1 / smooth).astype(np.float32))])
        x = graph.node("QuantizeLinear", [x, step, zero])
        inputs = [x, graph.weight(rounded.T), step, graph.weight(steps[:, 0]), zero, "", graph.weight(bias)]
        return graph.node("MatMulIntegerToFloat", inputs, _FUSED)

    return _encoder(graph, weights, words, linear)


def _encoder(graph: Graph, weights: Weights, words: Callable[[str], str], linear: Callable[[str, str], str]) -> bytes:
    """The graph around the embedding table `words(ids)` and the products `linear(x, name)`.

    Hidden states are (B * T, 1, D) but inside attention, which is the shape in which InstanceNormalization does the inner
    part of a layer normalisation, four times as fast as onnxruntime's operators for that.
    """
    ids, mask = graph.input("ids", "int32", ["B", "T"]), graph.input("mask", "int32", ["B", "T"])
    num_texts_tokens = graph.node("Shape", [ids])
    num_tokens = graph.node("Shape", [ids], start=1, end=2)
    flat = graph.weight(np.array([-1, 1, DIM], np.int64))
    one, zero = graph.weight(np.ones(1, np.float32)), graph.weight(np.zeros(1, np.float32))

    def batched(x: str, width: int) -> str:
        shape = graph.node("Concat", [num_texts_tokens, graph.weight(np.array([width], np.int64))], axis=0)
        return graph.node("Reshape", [x, shape])

    def normalise(x: str, name: str) -> str:
        scale, shift = _pair(weights, name)
        x = graph.node("InstanceNormalization", [x, one, zero], epsilon=_EPSILON)
        return graph.node("Add", [graph.node("Mul", [x, graph.weight(scale)]), graph.weight(shift)])

    first = graph.weight(np.zeros(1, np.int64))
    positions = graph.node("Slice", [graph.weight(_positions(weights)), first, num_tokens])
    x = graph.node("Reshape", [graph.node("Add", [words(ids), positions]), flat])
    x = normalise(x, "embeddings.LayerNorm")
    for layer in _layers():
        heads = batched(linear(x, f"{layer}.attention.self"), 3 * DIM)
        query, key, value = graph.nodes("Split", [heads, graph.weight(np.full(3, DIM, np.int64))], 3, axis=-1)
        attended = graph.node("MultiHeadAttention", [query, key, value, "", mask], _FUSED, num_heads=NUM_HEADS)
        inner = linear(graph.node("Reshape", [attended, flat]), f"{layer}.attention.output.dense")
        x = normalise(graph.node("Add", [x, inner]), f"{layer}.attention.output.LayerNorm")
        wide = graph.node("Gelu", [linear(x, f"{layer}.intermediate.dense")], _FUSED)
        x = normalise(graph.node("Add", [x, linear(wide, f"{layer}.output.dense")]), f"{layer}.output.LayerNorm")
    graph.output(batched(x, DIM), "float32", ["B", "T", DIM])
    return graph.to_bytes()


def _layers() -> list[str]:
    return [f"encoder.layer.{number}" for number in range(NUM_LAYERS)]


def _pair(weights: Weights, name: str) -> tuple[np.ndarray, np.ndarray]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _linear_weights(weights: Weights, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight (outputs, inputs) and bias (outputs,) of a product; query, key and value are one product."""
    if not name.endswith("attention.self"):
        return _pair(weights, name)
    pairs = [_pair(weights, f"{name}.{part}") for part in ("query", "key", "value")]
    return np.concatenate([weight for weight, _ in pairs]), np.concatenate([bias for _, bias in pairs])


def _positions(weights: Weights) -> np.ndarray:
    """What is added at each position, (MAX_TOKENS, D): every token has segment 0, whose vector is added here."""
    table = weights["embeddings.position_embeddings.weight"][:MAX_TOKENS]
    return table + weights["embeddings.token_type_embeddings.weight"][0]


def _rounded(rows: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 rows and the step of each row, float32 (rows, 1)."""
    steps = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12) / limit
    return np.rint(rows / steps).astype(np.int8), steps.astype(np.float32)


def _gelu(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution function, by the error function of Abramowitz and Stegun 7.1.26 (error 1.5e-7)."""
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return 0.5 * x * (1 + np.sign(x) * (1 - series * np.exp(-z * z)))
