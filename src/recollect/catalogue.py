"""Every system of recollect, one row each: data only, read by the command line, the docs and the tests."""

from __future__ import annotations

from dataclasses import dataclass

from recollect.errors import NotFound

HOMES = ("store", "context", "state", "weights", "agents", "worlds", "training", "benchmarks")


@dataclass(frozen=True, slots=True)
class System:
    """One system. `target` and `claim` are import paths; `arxiv` is "" for a system without a paper of its own."""

    key: str
    name: str
    paper: str
    arxiv: str
    year: int
    home: str
    target: str  # "module:Class"
    claim: str  # module with `CLAIM`
    method: str = ""  # "module:Class" of the store's method, for a system of another home that is one too


SYSTEMS: tuple[System, ...] = (
    System(
        key="episodic",
        name="Episodic",
        paper="Verbatim episodes ranked by fused signals (the default method of recollect)",
        arxiv="",
        year=2026,
        home="store",
        target="recollect.store.episodic:Episodic",
        claim="recollect.claims.episodic",
    ),
    System(
        key="scm",
        name="Self-Controlled Memory",
        paper="SCM: Enhancing Large Language Model with Self-Controlled Memory Framework",
        arxiv="2304.13343",
        year=2023,
        home="store",
        target="recollect.store.scm:SelfControlledMemory",
        claim="recollect.claims.scm",
    ),
    System(
        key="hipporag2",
        name="HippoRAG 2",
        paper="From RAG to Memory: Non-Parametric Continual Learning for Large Language Models",
        arxiv="2502.14802",
        year=2025,
        home="store",
        target="recollect.store.hipporag2:HippoRAG2",
        claim="recollect.claims.hipporag2",
    ),
    System(
        key="a-mem",
        name="A-MEM",
        paper="A-MEM: Agentic Memory for LLM Agents",
        arxiv="2502.12110",
        year=2025,
        home="store",
        target="recollect.store.a_mem:AMem",
        claim="recollect.claims.a_mem",
    ),
    System(
        key="tim",
        name="Think-in-Memory",
        paper="Think-in-Memory: Recalling and Post-thinking Enable LLMs with Long-Term Memory",
        arxiv="2311.08719",
        year=2023,
        home="store",
        target="recollect.store.tim:ThinkInMemory",
        claim="recollect.claims.tim",
    ),
    System(
        key="streaming-llm",
        name="StreamingLLM",
        paper="Efficient Streaming Language Models with Attention Sinks",
        arxiv="2309.17453",
        year=2023,
        home="context",
        target="recollect.context.streaming_llm:StreamingLLM",
        claim="recollect.claims.streaming_llm",
    ),
    System(
        key="sliding-window",
        name="SlidingWindow",
        paper="A window of the last tokens (the baseline without sinks)",
        arxiv="",
        year=2020,
        home="context",
        target="recollect.context.sliding_window:SlidingWindow",
        claim="recollect.claims.sliding_window",
    ),
    System(
        key="lm-infinite",
        name="LM-Infinite",
        paper="LM-Infinite: Zero-Shot Extreme Length Generalization for Large Language Models",
        arxiv="2308.16137",
        year=2023,
        home="context",
        target="recollect.context.lm_infinite:LMInfinite",
        claim="recollect.claims.lm_infinite",
    ),
    System(
        key="infllm",
        name="InfLLM",
        paper="InfLLM: Training-Free Long-Context Extrapolation for LLMs with an Efficient Context Memory",
        arxiv="2402.04617",
        year=2024,
        home="context",
        target="recollect.context.infllm:InfLLM",
        claim="recollect.claims.infllm",
    ),
    System(
        key="em-llm",
        name="EM-LLM",
        paper="Human-like Episodic Memory for Infinite Context LLMs",
        arxiv="2407.09450",
        year=2024,
        home="context",
        target="recollect.context.em_llm:EMLLM",
        claim="recollect.claims.em_llm",
    ),
    System(
        key="sirllm",
        name="SirLLM",
        paper="SirLLM: Streaming Infinite Retentive LLM",
        arxiv="2405.12528",
        year=2024,
        home="context",
        target="recollect.context.sirllm:SirLLM",
        claim="recollect.claims.sirllm",
    ),
    System(
        key="think",
        name="ThinK",
        paper="ThinK: Thinner Key Cache by Query-Driven Pruning",
        arxiv="2407.21018",
        year=2024,
        home="context",
        target="recollect.context.think:ThinK",
        claim="recollect.claims.think",
    ),
    System(
        key="hip",
        name="HiP attention",
        paper="A Training-Free Sub-quadratic Cost Transformer Model Serving Framework with Hierarchically Pruned Attention",
        arxiv="2406.09827",
        year=2024,
        home="context",
        target="recollect.context.hip:HiP",
        claim="recollect.claims.hip",
    ),
    System(
        key="rapid",
        name="RAPID",
        paper="Long-Context Inference with Retrieval-Augmented Speculative Decoding",
        arxiv="2502.20330",
        year=2025,
        home="context",
        target="recollect.context.rapid:RAPID",
        claim="recollect.claims.rapid",
    ),
    System(
        key="jrt",
        name="JRT-Prompt",
        paper="Just read twice: closing the recall gap for recurrent language models",
        arxiv="2407.05483",
        year=2024,
        home="context",
        target="recollect.context.jrt:JRTPrompt",
        claim="recollect.claims.jrt",
    ),
    System(
        key="longgen",
        name="LongGen",
        paper="A Little Goes a Long Way: Efficient Long Context Training and Inference with Partial Contexts",
        arxiv="2410.01485",
        year=2024,
        home="context",
        target="recollect.context.longgen:LongGen",
        claim="recollect.claims.longgen",
    ),
    System(
        key="longmem",
        name="LongMem",
        paper="Augmenting Language Models with Long-Term Memory",
        arxiv="2306.07174",
        year=2023,
        home="state",
        target="recollect.state.longmem:LongMem",
        claim="recollect.claims.longmem",
    ),
    System(
        key="rnn-review",
        name="LSTM",
        paper="A Critical Review of Recurrent Neural Networks for Sequence Learning",
        arxiv="1506.00019",
        year=2015,
        home="state",
        target="recollect.state.rnn:LSTM",
        claim="recollect.claims.rnn_review",
    ),
    System(
        key="lssl",
        name="LSSL",
        paper="Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space Layers",
        arxiv="2110.13985",
        year=2021,
        home="state",
        target="recollect.state.lssl:LSSL",
        claim="recollect.claims.lssl",
    ),
    System(
        key="rehearsal-free",
        name="Rehearsal-free regularisers",
        paper="A Closer Look at Rehearsal-Free Continual Learning",
        arxiv="2203.17269",
        year=2022,
        home="weights",
        target="recollect.weights.rehearsal_free:RehearsalFree",
        claim="recollect.claims.rehearsal_free",
    ),
    System(
        key="refresh",
        name="Refresh learning",
        paper="A Unified and General Framework for Continual Learning",
        arxiv="2403.13249",
        year=2024,
        home="weights",
        target="recollect.weights.refresh:Refresh",
        claim="recollect.claims.refresh",
    ),
    System(
        key="cl-thesis",
        name="MAS, Expert Gate, GSS and MIR",
        paper="Continual Learning in Neural Networks",
        arxiv="1910.02718",
        year=2019,
        home="weights",
        target="recollect.weights.mas:MAS",
        claim="recollect.claims.cl_thesis",
    ),
    System(
        key="scole",
        name="SCoLe",
        paper="Challenging Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation",
        arxiv="2207.04543",
        year=2022,
        home="weights",
        target="recollect.weights.scole:SCoLe",
        claim="recollect.claims.scole",
    ),
    System(
        key="locomo",
        name="LoCoMo",
        paper="Evaluating Very Long-Term Conversational Memory of LLM Agents",
        arxiv="2402.17753",
        year=2024,
        home="benchmarks",
        target="recollect.benchmarks.locomo:LoCoMo",
        claim="recollect.claims.locomo",
    ),
    System(
        key="longmemeval",
        name="LongMemEval",
        paper="LongMemEval: Benchmarking Chat Assistants on Long-Term Interactive Memory",
        arxiv="2410.10813",
        year=2024,
        home="benchmarks",
        target="recollect.benchmarks.longmemeval:LongMemEval",
        claim="recollect.claims.longmemeval",
        method="recollect.store.longmemeval:LongMemEvalMemory",
    ),
    System(
        key="longvq",
        name="LongVQ",
        paper="LongVQ: Long Sequence Modeling with Vector Quantization on Structured Memory",
        arxiv="2404.11163",
        year=2024,
        home="state",
        target="recollect.state.longvq:LongVQ",
        claim="recollect.claims.longvq",
    ),
    System(
        key="synaptic-resonance",
        name="Synaptic Resonance",
        paper="Exploring Synaptic Resonance in Large Language Models: A Novel Approach to Contextual Memory Integration",
        arxiv="2502.10699",
        year=2025,
        home="state",
        target="recollect.state.synaptic_resonance:SynapticResonance",
        claim="recollect.claims.synaptic_resonance",
    ),
    System(
        key="reweaving",
        name="Contextual Memory Reweaving",
        paper="Contextual Memory Reweaving in Large Language Models Using Layered Latent State Reconstruction",
        arxiv="2502.02046",
        year=2025,
        home="state",
        target="recollect.state.memory_reweaving:MemoryReweaving",
        claim="recollect.claims.reweaving",
    ),
)


def system(key: str) -> System:
    """The system with this key. Raises NotFound, naming what was probably meant."""
    for entry in SYSTEMS:
        if entry.key == key:
            return entry
    import difflib

    close = difflib.get_close_matches(key, [entry.key for entry in SYSTEMS], n=1)
    hint = f"did you mean {close[0]!r}" if close else "see `recollect systems`"
    raise NotFound(f"key: there is no system {key!r:.40}; {hint}.")
