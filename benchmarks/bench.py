"""Speed on one core, per second of CPU time: training on PTB, importance weighting, and sampling.

    python benchmarks/bench.py --data path/to/ptb --model path/to/model

Without `--data`, rows of PTB's shape (its vocabulary size, lengths and Zipf-like word frequencies) stand in, and
without `--model` an untrained model samples; both are then said in the output. Every figure is the median of the
rounds, printed as one JSON object a line.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from davam import api
from davam.api import SAMPLE_ROWS, TextModel
from davam.data.batches import Rows, plan_epoch, row_noise, take_slice
from davam.data.tokenizer import EOS_ID, TextTokenizer, count_words
from davam.families.base import Clock
from davam.families.codes import CodebookConfig, QuantizedFamily
from davam.families.vae import Vae
from davam.nn import ops
from davam.nn.precision import bf16_is_fast, set_precision
from davam.recipe import Recipe, load_recipe
from davam.sampling import Sampling
from davam.train import comm
from davam.train.optim import build_optimizer
from davam.train.stages import stage_one_module

PTB_WORDS, PTB_MEAN_LENGTH = 9_998, 21
PRECISIONS = ("fp32", "bf16") if bf16_is_fast(torch.device("cpu")) else ("fp32",)
SENTENCES = Sampling(min_length=20, max_length=20)
IMPORTANCE_ROWS, PTB_TEST_ROWS = 16, 3_761
GPT2_ROWS = 64


def main() -> int:
    """Prints every figure; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with PTB's train.txt")
    parser.add_argument("--model", help="a trained model to sample from")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, tokenizer = ptb_rows(options.data) if options.data else ptb_shaped_rows()
    source = "ptb" if options.data else "rows of PTB's shape"
    for preset in ("lstm_lm", "vae", "paper", "recommended"):
        for precision in PRECISIONS:
            bench_training(preset, precision, rows, tokenizer, source, options.rounds, options.steps)
    bench_importance(rows, tokenizer, source, options.rounds)
    model = api.load(options.model) if options.model else untrained(tokenizer)
    bench_sampling(model, options.model is not None, options.rounds)
    bench_gpt2(options.rounds)
    return 0


def bench_training(
    preset: str, precision: str, rows: Rows, tokenizer: TextTokenizer, source: str, rounds: int, steps: int
) -> None:
    """Predicted tokens per CPU-second of full optimizer steps of stage one, quantized and with dropout."""
    recipe = load_recipe([preset, "ptb"], [f"stage_one.precision={precision}"])
    step = training_step(recipe, rows, tokenizer.vocab_size)
    for _ in range(3):
        step()
    figures = []
    for _ in range(rounds):
        began = time.process_time()
        tokens = sum(step() for _ in range(steps))
        figures.append(tokens / (time.process_time() - began))
    facts = {"precision": precision, "batch_rows": recipe.stage_one.batch_rows, "data": source}
    say(f"stage_one_{preset}", figures, "tokens/s", **facts)


def training_step(recipe: Recipe, rows: Rows, vocab_size: int) -> Callable[[], int]:
    """A function that makes the next optimizer step, as the training loop does, and says how many tokens it had."""
    model = stage_one_module(recipe, vocab_size)
    set_precision(model, recipe.stage_one.precision)
    optimizer = build_optimizer(model, recipe.stage_one)
    group = comm.workers()
    plan = plan_epoch(rows.lengths, 0, 0, recipe.stage_one.batch_rows)
    batches = (take_slice(rows, batch) for _ in iter(int, 1) for batch in plan)
    # Families with codes quantize from the end of their warm-up on.
    epoch = recipe.model.continuous_epochs if isinstance(recipe.model, CodebookConfig) else 0
    codes_per_step = float(model.num_codes(torch.from_numpy(rows.lengths - 1)).sum() / len(plan))
    model.begin_epoch(epoch, lambda: (take_slice(rows, batch) for batch in plan), codes_per_step, 0, group)
    model.train()

    def step() -> int:
        batch = next(batches)
        clock = Clock(epoch, 0, len(plan))
        optimizer.zero_grad(set_to_none=True)
        terms = model(batch, clock, row_noise(batch, 0, 0))
        (terms.loss_sum / len(batch.ids)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.stage_one.clip_norm)
        optimizer.step()
        model.after_step(terms, batch, clock, lambda n: torch.tensor([[int(batch.index_B[0]), 0]] * n), group)
        return int(batch.length_B.sum())

    return step


def bench_importance(rows: Rows, tokenizer: TextTokenizer, source: str, rounds: int) -> None:
    """Sentences whose likelihood an untrained VAE estimates per CPU-second, by 500 draws each."""
    recipe = load_recipe(["vae", "ptb"])
    model = stage_one_module(recipe, tokenizer.vocab_size).eval()
    assert isinstance(model, Vae)
    figures = []
    for round_index in range(rounds):
        batch = take_slice(rows, np.arange(round_index * IMPORTANCE_ROWS, (round_index + 1) * IMPORTANCE_ROWS))
        began = time.process_time()
        model.importance_nats(batch, recipe.evaluation.importance_draws)
        figures.append(IMPORTANCE_ROWS / (time.process_time() - began))
    minutes = PTB_TEST_ROWS / statistics.median(figures) / 60
    say("importance_vae", figures, "sentences/s", data=source, ptb_test_cpu_minutes=round(minutes, 1))


def bench_sampling(model: TextModel, trained: bool, rounds: int) -> None:
    """Sentences of 20 words per CPU-second: prior, decoder and text, ancestral."""
    model.sample(SAMPLE_ROWS, sampling=SENTENCES)
    figures, words = [], []
    for round_index in range(rounds):
        began = time.process_time()
        samples = model.sample(2 * SAMPLE_ROWS, seed=round_index, sampling=SENTENCES)
        figures.append(2 * SAMPLE_ROWS / (time.process_time() - began))
        words.append(np.mean([len(text.split()) for text in samples.texts]))
    say(
        "sampling",
        figures,
        "sentences/s",
        batch_rows=SAMPLE_ROWS,
        trained=trained,
        mean_words=round(float(np.mean(words)), 1),
    )


def bench_gpt2(rounds: int) -> None:
    """The same of `transformers`: a GPT-2 of 124 million random weights, 20 tokens and no more, cached, ancestral."""
    model = GPT2LMHeadModel(GPT2Config()).eval()
    begin_B1 = torch.full((GPT2_ROWS, 1), model.config.bos_token_id)
    words = SENTENCES.min_length
    settings = GenerationConfig(
        do_sample=True, top_k=0, min_new_tokens=words, max_new_tokens=words, pad_token_id=model.config.eos_token_id
    )
    figures = []
    for _ in range(rounds):
        began = time.process_time()
        model.generate(begin_B1, attention_mask=torch.ones_like(begin_B1), generation_config=settings)
        figures.append(GPT2_ROWS / (time.process_time() - began))
    say("sampling_gpt2_124m", figures, "sentences/s", batch_rows=GPT2_ROWS, trained=False, mean_words=words)


def say(name: str, figures: list[float], unit: str, **facts: object) -> None:
    """One figure as a line of JSON."""
    print(
        json.dumps(
            {
                "name": name,
                "median": round(statistics.median(figures), 1),
                "least": round(min(figures), 1),
                "most": round(max(figures), 1),
                "unit": f"{unit} of CPU time",
                **facts,
                "machine": processor(),
                "torch": torch.__version__,
            }
        ),
        flush=True,
    )


def processor() -> str:
    """The processor's name."""
    name = torch.cpu.get_capabilities().get("cpu_name")
    return str(name or platform.processor() or platform.machine())


def ptb_rows(folder: str) -> tuple[Rows, TextTokenizer]:
    """PTB's training sentences and their tokenizer."""
    texts = [line for line in (Path(folder) / "train.txt").read_text("utf-8").splitlines() if line.strip()]
    tokenizer = TextTokenizer.fit_words(count_words(texts), None, 1)
    return Rows.from_lists(range(len(texts)), [[*row, EOS_ID] for row in tokenizer.encode(texts)]), tokenizer


def ptb_shaped_rows(count: int = 8_000) -> tuple[Rows, TextTokenizer]:
    """Random rows with PTB's vocabulary size, mean length and falling word frequencies."""
    rng = np.random.default_rng(0)
    words = {f"w{rank}": PTB_WORDS - rank for rank in range(PTB_WORDS)}
    weights = 1 / (np.arange(PTB_WORDS) + 2.7)
    lengths = np.clip(rng.gamma(4.5, PTB_MEAN_LENGTH / 4.5, size=count).astype(int), 1, 80)
    rows = [[*(4 + rng.choice(PTB_WORDS, size=n, p=weights / weights.sum())).tolist(), EOS_ID] for n in lengths]
    return Rows.from_lists(range(count), rows), TextTokenizer.fit_words(words, None, 1)


def untrained(tokenizer: TextTokenizer) -> TextModel:
    """The `recommended` PTB model before training, with a codebook that spreads its codes."""
    recipe = load_recipe(["recommended", "ptb"])
    model = TextModel(recipe.model, recipe.prior, tokenizer, recipe.data.max_tokens)
    model.core.init_weights(0)
    assert isinstance(model.core, QuantizedFamily)
    codebook = model.core.codebook
    h_ND = torch.randn(4_096, codebook.code_KD.shape[1], generator=torch.Generator().manual_seed(0))
    centre_KD, share_K = ops.kmeans(h_ND, len(codebook.code_KD), np.random.default_rng(0), iterations=1)
    codebook.initialize(centre_KD, share_K, 1000.0)
    return model


if __name__ == "__main__":
    sys.exit(main())
