"""Three hints for every task: the direction, the formula, and the solution's code."""

import ast
import re
from collections.abc import Mapping
from typing import NamedTuple

from detour.errors import ConfigError
from detour.labs.index import Lab
from detour.labs.sources import BEGIN, END, PLACEHOLDER

STEPS = ("direction", "formula", "code")


class Hint(NamedTuple):
    """What is said before the code."""

    direction: str
    formula: str


def hint_of(lab: Lab, task: str, step: int) -> str:
    """A hint in words or code.

    Args:
        lab: whose task it is.
        task: as its check names it.
        step: 1 the direction, 2 the formula, 3 the code of the solution.

    Raises:
        ConfigError: no such task or step.
    """
    hints = HINTS[lab.number]
    if task not in hints:
        raise ConfigError(f"lab {lab.number} has no task '{task}'. It has: {', '.join(hints)}.")
    if not 1 <= step <= len(STEPS):
        raise ConfigError(f"--step {step}: 1 is the direction, 2 the formula, 3 the code.")
    return code_of(lab, task) if step == 3 else hints[task][step - 1]


def direction_of(number: int, task: str) -> str:
    """The first hint of a task, which says where to look and holds no solution."""
    return HINTS[number][task].direction


def asked_by(lab: Lab, task: str) -> str:
    """What a task asks for in one sentence: the first line of its function's docstring; empty for other answers."""
    lesson = ast.parse(lab.source.read_text(encoding="utf-8"))
    functions = {
        node.name: ast.get_docstring(node) for node in lesson.body if isinstance(node, ast.FunctionDef)
    }
    for node in ast.walk(lesson):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check" and len(node.args) == 3:
            name, answer = node.args[1:]
            if isinstance(name, ast.Constant) and name.value == task and isinstance(answer, ast.Name):
                return (functions.get(answer.id) or "").split("\n\n")[0].replace("\n", " ")
    return ""


def code_of(lab: Lab, task: str) -> str:
    """The answer that stands before the check of a task, without its marks.

    Raises:
        ConfigError: the lesson has no such check.
    """
    text = lab.source.read_text(encoding="utf-8")
    found = re.search(rf'^check\(\s*{lab.number},\s*"{task}"', text, re.MULTILINE)
    if found is None:
        raise ConfigError(f"{lab.name} has no check of '{task}'.")
    before = text[: found.start()]
    begin, end = before.rindex(BEGIN), before.rindex(END)
    lines = before[begin:end].splitlines()[1:]
    kept = [line for line in lines if PLACEHOLDER not in line and line.strip()]
    indent = min(len(line) - len(line.lstrip()) for line in kept)
    return "\n".join(line[indent:] for line in kept)


HINTS: Mapping[int, Mapping[str, Hint]] = {
    1: {
        "cross_attention": Hint(
            "Cross-attention is attn2. Ask each layer's path whether it is inside one, and which projection it is.",
            "Keep the paths that contain '.attn2.' and end in to_q, to_k, to_v or to_out.0.",
        ),
        "lora_parameters": Hint(
            "Two thin matrices are trained; count the numbers in each from its shape.",
            "rank · in (down) plus out · rank (up).",
        ),
        "adapter_parameters": Hint(
            "The adapter is the sum over its layers, each with its own widths.",
            "counts[rank] = Σ lora_parameters(in, out, rank) over all names, for rank 4, 8 and 16.",
        ),
        "bare_suffix": Hint(
            "Let select find the layers, once with the bare names and once with attn2 before each; count them.",
            'len(select(sd15, "to_q,to_k,to_v")) and len(select(sd15, "attn2.to_q,attn2.to_k,attn2.to_v")).',
        ),
        "copied_figure": Hint(
            "Use your own function on every attention layer of sd15, then take the sum's share of base and adapter.",
            "percent = 100 · parameters / (859,520,964 + parameters), summed over select(sd15, 'attn').",
        ),
        "file_bytes": Hint(
            "You have the number of parameters at rank 4. How many bytes has a number of 16 bits?",
            "2 · counts[4].",
        ),
    },
    2: {
        "shapes": Hint(
            "Follow the picture: pixels, then what the VAE makes of them, then what the UNet answers; the batch is 1.",
            "(1, 3, S, S), (1, C, S/f, S/f), (1, 77, width), and the prediction as the latents.",
        ),
        "to_latents": Hint(
            "Draw from the encoder's distribution with the given noise; then bring it to the UNet's scale.",
            "(mean + std · noise) · scaling_factor.",
        ),
        "diffusion_loss": Hint(
            "Three lines: make noisy latents, ask for the noise, compare the answer with the noise that you added.",
            "x_t = √ᾱ · latents + √(1 − ᾱ) · noise; loss = mean of (answer − noise)².",
        ),
        "gradients": Hint(
            "A gradient tensor may be there and be all zeros: that is the difference between up and down here.",
            "Base: count grad is not None. Factors: count grad.abs().max() > 0, for down and for up.",
        ),
        "hand_gradients": Hint(
            "Let a matrix product sum over the batch; the shapes tell what to transpose.",
            "∂down = s · upᵀ gᵀ x and ∂up = s · gᵀ (x downᵀ).",
        ),
        "same": Hint(
            "Ask of each row: is it a property of the adapter, or of what the model is asked?",
            "The adapter's form, the frozen base and the zero gradient are the adapter's; loss and randomness are not.",
        ),
    },
    3: {
        "smoothed": Hint(
            "At each step take the mean of the last values up to it; at the start there are fewer of them.",
            "mean(values[max(0, end − window) : end]) for end = 1 … number of values.",
        ),
        "fell_by": Hint(
            "Only the loss at fixed timesteps can be compared between two moments. What part of it is gone?",
            "1 − last / first, of the validation losses.",
        ),
        "held_out": Hint(
            "A prompt is held out when training never saw it as a whole.",
            "Keep those of candidates that are not in captions, in their order.",
        ),
        "style_share": Hint(
            "The whole way is the base's distance. What part of it is left with the adapter?",
            "1 − adapter_distance / base_distance; negative where the adapter leads away.",
        ),
        "beyond_noise": Hint(
            "How far apart are two runs that differ by nothing but the seed? Anything smaller says nothing.",
            "min(|second − first|, |second − first_again|) > |first − first_again|.",
        ),
    },
    4: {
        "stack_factors": Hint(
            "A product of stacked matrices is a sum of products. Put the scale into one factor of each pair.",
            "down = [down₁; down₂] (rows), up = [s₁·up₁, s₂·up₂] (columns).",
        ),
        "rank_of_sum": Hint("How many rows has your stacked down?", "rank₁ + rank₂."),
        "agreement": Hint(
            "The angle between two tensors, read as long vectors.",
            "Σ move₁·move₂ / (‖move₁‖ · ‖move₂‖).",
        ),
        "louder": Hint(
            "Which single adapter moves the pictures more? Compare every pair with that one.",
            "Pairs without a zero with moved[pair] > max(moved[1, 0], moved[0, 1]).",
        ),
        "seen": Hint(
            "Look at one column at a time: what is left of each style, and of the prompt?",
            "Three different sentences of at least four words; what they say is yours.",
        ),
    },
    5: {
        "parameters": Hint(
            "A model is a tree of tensors; each tensor holds many numbers.",
            "Σ p.numel() over part.parameters(), for each part.",
        ),
        "shapes": Hint(
            "Everything follows from the base's settings: sides, channels, tokens, width.",
            "(C, S/f, S/f), (max_position_embeddings, width), and 3·S² / (C·(S/f)²).",
        ),
        "start_noise": Hint(
            "A row must not know which rows stand beside it, nor what was drawn before.",
            "One torch.Generator().manual_seed(seed) for each seed, torch.randn with it, torch.stack.",
        ),
        "decode": Hint(
            "Undo the UNet's scale, decode, bring the range to bytes, channels last.",
            "round(clamp(vae.decode(latents / scaling_factor) / 2 + 0.5, 0, 1) · 255) as uint8, (N, H, W, 3).",
        ),
        "same_as_engine": Hint(
            "Nothing is to be written here: your two functions draw, and the engine draws.",
            "start_noise and decode have to pass their checks; then run the cell of draw and this one again.",
        ),
        "determinism": Hint(
            "Ask of each condition where it enters: the noise, the text, a step, or only the order of a sum.",
            "Seed, prompt, steps and sampler make the picture; batch size and threads change rounding, so bytes.",
        ),
    },
    6: {
        "by_side": Hint(
            "Go over the layers once: which side is it on, how many numbers has its adapter?",
            "by_side[block_of('unet.' + path) up to the dot] += lora_parameters(layer, RANK).",
        ),
        "sizes": Hint(
            "Each printed block has cross-attention at the size of its level. Latents are 64 wide at 512 px.",
            "down.0 64, down.1 32, down.2 16, mid 8, up.1 16, up.2 32, up.3 64.",
        ),
        "share": Hint(
            "The adapter is a part of the UNet now: both counts come from the same list.",
            "Σ numel of those that require gradients / Σ numel of all.",
        ),
        "scale": Hint("What makes the scale 1 when alpha equals the rank?", "alpha / rank."),
        "delta_w": Hint(
            "The change has the weight's shape, (out, in): which product of the factors has it?",
            "alpha / rank · up @ down.",
        ),
        "lost_alpha": Hint(
            "The same factors at two scales: the one that was meant, and 1. How wrong is the second, of the first?",
            "|1 − scale| / scale.",
        ),
    },
    7: {
        "learns": Hint(
            "Two things must have happened: the loss fell, and the picture moved by more than rounding.",
            "losses[−1] < losses[0] and mean_abs_diff − floor > 0.5.",
        ),
        "questions": Hint(
            "Choose timesteps instead of drawing them, and draw the noise from a generator of its own.",
            "torch.linspace(100, 900, num).long(); torch.randn(num, *shape, generator=…manual_seed(SEED)).",
        ),
        "telling": Hint(
            "Which prompts could be answered by learning the one picture by heart?",
            "Those that share no thing with the training caption.",
        ),
        "stop_at": Hint(
            "Which of the two curves has an opinion about other pictures?",
            "The steps at the lowest value of curve['kept out'].",
        ),
    },
    8: {
        "mean_abs_diff": Hint(
            "Bytes have no room for a difference. Widen them first; then brighter and darker must count alike.",
            "mean |first − second|, with both as int16 or wider.",
        ),
        "has_effect": Hint(
            "Large enough to be seen, and clearly more than what happens without an adapter.",
            "moved > EFFECT_MIN_DIFF and moved > EFFECT_OVER_NOISE · floor.",
        ),
        "clip_scores": Hint(
            "Rows have length one, so a cosine is a dot product: of row i with row i alone.",
            "Σ over D of picture_features · text_features, (N,).",
        ),
        "diagnose": Hint(
            "One question for each cause, the whole adapter each time; 'none' when no cause holds for all of it.",
            "weight == 0; no key among 'unet.' + module names; no up with anything but zeros; adapted is not drawing.",
        ),
        "hot_swap": Hint(
            "The live parameters keep their memory; only the numbers in it change. The adapter stays as it is.",
            "live.data.copy_(new), for down and up of every key.",
        ),
        "must_be_zero": Hint(
            "Which of the five go through the same operations with the same numbers?",
            "All but the merged model: (W + ΔW) x is rounded otherwise than W x + ΔW x.",
        ),
    },
    9: {
        "one_pixel": Hint(
            "Put the numbers into the step twice. Then solve the jump for the one noise.",
            "x₁ = √0.9·0.8 + √0.1·0.5; x₂ = √0.8·x₁ − √0.2; ᾱ₂ = 0.9·0.8; ε = (x₂ − √ᾱ₂·0.8) / √(1 − ᾱ₂).",
        ),
        "jump": Hint(
            "At ᾱ = 1 the picture comes back unchanged, at ᾱ = 0 only noise is left.",
            "√ᾱ · clean + √(1 − ᾱ) · noise.",
        ),
        "variance": Hint(
            "Variances of independent parts add up, each weighed by the square of its factor.",
            "ᾱ · Var(x₀) + 1 − ᾱ.",
        ),
        "clean_guess": Hint(
            "Solve the jump for the clean latents: first take the noise out, then make up for the weight.",
            "(noisy − √(1 − ᾱ) · noise_pred) / √ᾱ.",
        ),
        "first_below": Hint(
            "snr(alphas) falls. Where does the comparison with 1 become true for the first time?",
            "int((snr(alphas) < 1).nonzero()[0]), for each schedule.",
        ),
    },
    10: {
        "leading": Hint(
            "Count down in whole strides to zero, then raise every stop by the offset.",
            "(steps − 1, …, 1, 0) · (trained // steps) + offset.",
        ),
        "ddim_step": Hint(
            "Two steps that you know from lab 9: the guess of the clean latents, then the jump to the next stop.",
            "√ᾱ' · (x − √(1 − ᾱ)·ε)/√ᾱ + √(1 − ᾱ') · ε.",
        ),
        "same_as_ddim": Hint(
            "Nothing is to be written here: leading and ddim_step draw.",
            "Both have to pass their checks; then run the cell of draw and this one again.",
        ),
        "sweet_spot": Hint(
            "The budget decides who may take part, the distance who wins.",
            "Of the rows with seconds ≤ budget_s the one with the smallest distance; None where there is none.",
        ),
    },
    11: {
        "faulty_lines": Hint(
            "Ask of each line: is this what the base was trained with? Can what it makes be used as often as it is?",
            "Precision (3), a stream that is read twice (4, 15), pixels for latents (8), noise (10), text (11).",
        ),
        "latents_of": Hint(
            "The UNet knows one space: what the VAE encodes, in the UNet's scale.",
            "latent_dist.mean · scaling_factor.",
        ),
        "noisy_of": Hint(
            "Lab 9's jump, with another ᾱ for each sample: give ᾱ the shape (N, 1, 1, 1).",
            "√ᾱ_t · latents + √(1 − ᾱ_t) · noise.",
        ),
        "states_of": Hint(
            "Every picture is shown with its own caption, in the order of the pictures.",
            "text_stage.encode(captions).states.",
        ),
        "adapter_dtype": Hint(
            "An update is about 1e-4. In which dtype does 0.05 + 0.0001 differ from 0.05, at the least cost?",
            "Steps next to 0.05: bfloat16 2e-4, float16 3e-5, float32 4e-9. Masters are kept in float32.",
        ),
        "trainable": Hint(
            "It is read twice: by the optimizer and by the clip.",
            "A list of the parameters with requires_grad.",
        ),
        "same_as_real": Hint(
            "Nothing is to be written here: your five pieces train, and detour's own loop trains.",
            "All five checks above have to pass; then run the cells from 'Against the real one' on.",
        ),
    },
    12: {
        "guided_prediction": Hint(
            "Ask for both answers in one batch, take it apart, and go from the one without a prompt beyond the other.",
            "ε(∅) + s · (ε(text) − ε(∅)).",
        ),
        "no_prompt": Hint(
            "What stood in place of the caption in this family's training?",
            'encode([""] · num).states.',
        ),
        "same_as_pipeline": Hint(
            "Nothing is to be written here: your two functions draw.",
            "Both have to pass their checks; then run the cell of draw and this one again.",
        ),
        "shown_captions": Hint(
            "Each picture of each step has a chance of its own, and the same one whenever it is asked.",
            '"" where chance_for(SEED, step, index, purpose="caption") < share, else the caption.',
        ),
        "read_the_table": Hint(
            "One number from the CLIP column, one from the clipped column.",
            "The scale of the highest clip; the first scale with clipped ≥ 2 · clipped at the first scale, or 'never'.",
        ),
    },
    13: {
        "picture_tokens": Hint(
            "Make one long vector of each embedding, cut it into tokens, and normalise each token by itself.",
            "layer_norm of (W e + b) in the shape (N, num_tokens, width), over the width.",
        ),
        "decoupled": Hint(
            "The text's attention stays as it is. What is added has queries in common with it, and nothing else.",
            "softmax(q Kᵀ / √d) V + s · softmax(q K'ᵀ / √d) V'.",
        ),
        "shown_rows": Hint(
            "Guidance makes stronger what differs between its two rows. What is the row without the prompt shown?",
            "N rows of zeros, below them the N embeddings.",
        ),
        "kept": Hint(
            "Two shares do not say how many pictures have both. Ask each picture both questions.",
            "mean of (likeness ≥ least and in place) over all pictures.",
        ),
    },
    14: {
        "shares": Hint(
            "Write s = 10 t first. What must the two be at time 0, so that nothing changes there?",
            "0.25 / (s² + 0.25), s / √(s² + 0.25).",
        ),
        "guided_step": Hint(
            "Guide first. Clean latents and noise of one prediction are then mixed anew, less noisy than before.",
            "ε = ε_none + g (ε_text − ε_none), x₀ = (x − √(1−ᾱ_t) ε) / √ᾱ_t, then √ᾱ_s x₀ + √(1−ᾱ_s) ε.",
        ),
        "drawing_times": Hint(
            "Number the fifty times from 999 down. Which numbers does step k of n take, rounded down?",
            "999 − 20 · ⌊50 k / n⌋ for k = 0 … n − 1.",
        ),
        "kept": Hint(
            "Whom can one ask at all whether it was kept?",
            "mean of after, where before is True; 0 where it never is.",
        ),
    },
    15: {
        "within_s": Hint(
            "Put the times in order. How many requests have to be done, and which time belongs to the last of them?",
            "sorted(seconds)[⌈share · n⌉ − 1].",
        ),
        "line": Hint(
            "A straight line has two numbers: its value where no step is made, and what each step adds.",
            "seconds ≈ fixed + each · steps; np.polyfit(steps, seconds, 1) gives (each, fixed).",
        ),
        "steps_within": Hint(
            "The fixed part is paid before the first step. How many whole steps does the rest pay?",
            "max(0, ⌊(budget − fixed) / each⌋).",
        ),
        "is_free": Hint(
            "Ask three questions: is anything larger, is anything smaller, and are the pictures the same?",
            "neither larger ∧ (seconds smaller ∨ bytes smaller) ∧ moved ≤ floor.",
        ),
        "activation_bytes": Hint(
            "Count the numbers of one picture's tensor first. How many pictures are in memory at once with slicing?",
            "(1 if sliced, else batch) · channels · side² · each.",
        ),
        "batch_for": Hint(
            "The budget holds for the whole batch, because everyone waits for it. Only then count pictures a second.",
            "Of the rows with seconds ≤ budget_s that with the largest batch / seconds; None where there is none.",
        ),
        "choice": Hint(
            "Cross out what is too slow. What is left differs by how far it is from the long walk.",
            "The name of the row with the smallest distance among those with seconds ≤ budget_s.",
        ),
    },
    16: {
        "term_layer": Hint(
            "Take the punctuation and the capitals away first. Then a term is a piece of text between two blanks.",
            "' term ' in ' the prompt as plain words ', for any of the terms.",
        ),
        "error_rates": Hint(
            "Each error belongs to one group: what can be missed, and what can be a false alarm?",
            "#(unwanted and not flagged) / #unwanted, #(flagged and harmless) / #harmless.",
        ),
        "stacked": Hint(
            "Go over the cases, not over the layers: what do all layers say of one case?",
            "any(flags of one case), for every case of zip(*layers).",
        ),
        "two_thresholds": Hint(
            "Which score must not pass unseen, and which must not be refused unseen?",
            "(min of the unwanted scores, max of the harmless scores).",
        ),
        "work_queue": Hint(
            "What cannot wait comes first. What decides between two that can wait equally long?",
            "The first `room` ids, sorted by (expires, score).",
        ),
    },
    17: {
        "seconds_a_picture": Hint(
            "Which of the times would come again tomorrow? Take the one in the middle, for all pictures of the batch.",
            "median(seconds[1:]) / pictures.",
        ),
        "cost_drawn": Hint(
            "First the price of a second, then of the seconds of a picture. Who pays for the hours without a picture?",
            "seconds · machine_an_hour / 3600 / busy.",
        ),
        "cost_accepted": Hint(
            "How many pictures have to be drawn and looked at until one is kept?",
            "(drawn + review) / accepted, and infinity for a share of 0.",
        ),
        "cheapest": Hint(
            "One column of the table says what somebody pays who wants pictures that can be used.",
            "The steps of the row with the smallest cost.",
        ),
        "break_even": Hint(
            "What does every picture of your own save? How many such savings pay the training?",
            "⌈training / (bought − own)⌉ where bought > own, else None.",
        ),
        "choose": Hint(
            "Write the bill of one option for that many pictures, then compare the options by it.",
            "The name with the smallest fixed + pictures · each.",
        ),
    },
    18: {
        "flow_mix": Hint(
            "At σ = 0 the picture comes back, at σ = 1 the noise, and between them everything lies on a straight line.",
            "(1 − σ) · clean + σ · noise, σ in the shape (N, 1, 1, 1).",
        ),
        "flow_target": Hint(
            "Write the mixture down and ask how it changes when σ grows.",
            "d/dσ [(1 − σ) · clean + σ · noise] = noise − clean.",
        ),
        "shifted": Hint(
            "The formula stands above. Try 0, 1 and a shift of 1: what has to come out?",
            "s σ / (1 + (s − 1) σ).",
        ),
        "euler_step": Hint(
            "The velocity says how far the latents move for a whole unit of σ. How much of a unit is this step?",
            "noisy + (σ_next − σ) · velocity; the factor is negative.",
        ),
        "same_as_engine": Hint(
            "Nothing is to be written here: euler_step draws, at the engine's own levels.",
            "euler_step has to pass its check; then run the cell of draw and this one again.",
        ),
        "text_side": Hint(
            "Compare the four names of the text with the four of the picture: what do only the former have in common?",
            "The path contains add_.",
        ),
        "adapter_parameters": Hint(
            "What do down and up of one layer hold? Then add all layers up.",
            "Σ rank · (in_features + out_features).",
        ),
        "must_be_zero": Hint(
            "Which of the four go through the same operations with the same numbers?",
            "All but the merged model: (W + ΔW) x is rounded otherwise than W x + ΔW x.",
        ),
    },
    19: {
        "relative_move": Hint(
            "Each row is one answer. Measure the difference of both, measure the answer without the adapter, divide.",
            "‖with − without‖ / ‖without‖, the norms over all numbers of a row.",
        ),
        "clean_move": Hint(
            "Write x₀ down twice, with both noises and the same noisy latents, and subtract.",
            "Δx₀ = −(b / a) · Δε.",
        ),
        "strength_at": Hint(
            "The thirds are numbered 0, 1 and 2. Which number has the third in which the step begins?",
            "⌊3 · step / steps⌋ is the number of the third; compare its name with the one that is asked for.",
        ),
        "share_of_move": Hint(
            "Both moves begin at plain. Of the part's move only that counts which lies along the full one.",
            "Σ (part − plain)(full − plain) / Σ (full − plain)².",
        ),
    },
}  # fmt: skip
