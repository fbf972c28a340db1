"""An example for every verb and type of ``import detour``; docs/api.md shows them, and a test runs them in this order.

Each one may use what those before it made, and all of them work in the folder where they are called.
"""

EXAMPLES: dict[str, str] = {
    "WorldSubject": """
bob = detour.WorldSubject(kind="robot", colour="blue", words="a sks robot")
""",
    "draw_subject": """
detour.draw_subject(Path("photos"), bob, count=8, seed=0)
""",
    "DataSpec": """
data = detour.DataSpec(source="photos", trigger="sks")
""",
    "check_data": """
report = detour.check_data(data, goal="subject")
print(report.pictures, report.usable)
""",
    "caption": """
captions = detour.caption(Path("drawings"), model="blip", prompt="a drawing of")
print(captions.written)
""",
    "load_run_spec": """
spec = detour.load_run_spec(
    flags={
        "name": "bob",
        "data.source": "photos",
        "train.steps": 2,
        "train.batch": 1,
        "sample.every": 0,
        "validate.every": 0,
        "evaluate.steps": 1,
        "evaluate.num_prompts": 1,
        "evaluate.proof_pictures": 1,
    }
)
""",
    "RunSpec": """
from detour.specs import BaseSpec, TrainSpec

short = detour.RunSpec(name="bob", base=BaseSpec(name="pocket"), data=data, train=TrainSpec(steps=2))
assert short.train.steps == spec.train.steps
""",
    "plan": """
memory = detour.plan(spec, cards=())
print(memory.peak_bytes)
""",
    "train": """
result = detour.train(spec, prove=False)
print(result.adapter_file, result.final_loss)
""",
    "distill": """
few = detour.RunSpec.model_validate(spec.model_dump(exclude_unset=True, by_alias=True) | {"name": "bob-lcm-4step"})
fast = detour.distill(few, prove=False)
print(fast.adapter_file)
""",
    "runs": """
print([(run.name, run.steps) for run in detour.runs()])
""",
    "demo": """
shown = detour.demo(runs=Path("runs"))
print(shown.proof.verdict, shown.report)
""",
    "PictureSpec": """
quick = detour.PictureSpec(steps=1, guidance_scale=1.0)
""",
    "GenerateSpec": """
wanted = detour.GenerateSpec(prompts=("a sks robot",), loras=(f"{result.adapter_file}:0.8",), picture=quick)
""",
    "generate": """
drawn = detour.generate(wanted, out=Path("pictures"))
print(drawn.files[0].path)
""",
    "show_picture": """
told = detour.show_picture(drawn.files[0].path)
print("\\n".join(told.lines()))
""",
    "verify_picture": """
again = detour.verify_picture(drawn.files[0].path, files=Path("runs"))
print(again.line())
""",
    "grid": """
pair = detour.GenerateSpec(prompts=("a robot",), loras=(str(result.adapter_file),) * 2, picture=quick)
sheet = detour.grid(pair, out=Path("grid.png"), weights=[1.0])
""",
    "grid_of_strengths": """
strengths = detour.grid_of_strengths(wanted, out=Path("strengths.png"), strengths=[0.5, 1.0])
""",
    "InterpolateSpec": """
way = detour.InterpolateSpec(prompts=("a robot", "a house"), seed=1, seed_to=2, frames=3, picture=quick)
""",
    "interpolate": """
between = detour.interpolate(way, out=Path("between.png"))
print(between.steps, between.jump)
""",
    "open_base": """
base = detour.open_base("pocket")
print(base.family.name, base.native_size_px)
""",
    "AdapterFile": """
from detour.files import sha256_of

file = detour.AdapterFile(path=result.adapter_file, sha256=sha256_of(result.adapter_file))
""",
    "AdapterInUse": """
half = detour.AdapterInUse(adapter=file, weight=0.5, sha256=file.sha256)
""",
    "PictureRequest": """
request = detour.PictureRequest(prompt="a sks robot", seed=7, how=quick, adapters=(half,))
""",
    "open_engine": """
engine = detour.open_engine(base, device="cpu")
handle = engine.submit(request)
print(handle.result().pixels.shape)
""",
    "show": """
contents = detour.show(result.adapter_file)
print(contents.ranks, contents.parameters)
""",
    "convert": """
converted = detour.convert(result.adapter_file, Path("bob-diffusers.safetensors"), to="diffusers")
print(converted.path)
""",
    "resize": """
smaller = detour.resize(result.adapter_file, out=Path("bob-rank-2.safetensors"), rank=2)
print(smaller.path)
""",
    "compose": """
both = detour.compose([f"{result.adapter_file}:0.8", f"{smaller.path}:0.2"], out=Path("both.safetensors"))
print(both.written.path)
""",
    "merge": """
merged = detour.merge("pocket", [str(result.adapter_file)], out=Path("merged"), pictures=0)
print(merged.path)
""",
    "extract": """
extracted = detour.extract("pocket", str(merged.path), out=Path("extracted.safetensors"), rank=2)
print(extracted.kept)
""",
    "inspect": """
inspection = detour.inspect("sdxl", ranks=[8, 32])
print([(cost.rank, cost.parameters) for cost in inspection.costs])
""",
    "step": """
one_step = detour.step(rank=2)
print(one_step.loss)
""",
    "forward": """
trace = detour.forward(levels=2)
""",
    "overfit": """
fitted = detour.overfit(steps=1)
""",
    "doctor": """
examination = detour.doctor(str(result.adapter_file), asked_picture=detour.AskedPicture(guidance_scale=20.0))
print([finding.rule for finding in examination.findings])
""",
    "AskedPicture": """
request = detour.AskedPicture(prompt="a sks robot", width_px=512)
""",
    "prove": """
proof = detour.prove(result.adapter_file, out=Path("proof"), prompts=["a sks robot"])
print(proof.verdict, proof.headline)
""",
    "prove_run": """
proof = detour.prove_run(result.run_folder)
print(proof.verdict, proof.next_step)
""",
    "push": """
uploaded = detour.push(result.run_folder, "somebody/bob")
print(uploaded.url)
""",
    "evaluate_checkpoints": """
scores = detour.evaluate_checkpoints(result.run_folder)
""",
    "EvaluationSpec": """
thorough = detour.EvaluationSpec(num_prompts=1, drift_prompts=0, seeds=1, controls="base", require=("style>=0.5",))
""",
    "evaluate": """
judged = detour.evaluate(result.run_folder, thorough)
print(judged.report, judged.unmet)
""",
    "AxisSpec": """
ranks = detour.AxisSpec(key="adapter.rank", values=(1, 2))
""",
    "CompareSpec": """
comparison = detour.CompareSpec(run=spec, axes=(ranks,), seeds=1)
""",
    "compare": """
table = detour.compare(comparison, out=Path("ranks"))
print(table.finding)
""",
    "StudySpec": """
three = detour.PictureSpec(steps=3, guidance_scale=1.0)
study = detour.StudySpec(lora=str(result.adapter_file), num_prompts=1, seeds=1, picture=three)
""",
    "study_schedulers": """
samplers = detour.study_schedulers(
    study, out=Path("samplers"), steps=[1], samplers=["ddim", "euler"], reference_steps=2
)
""",
    "study_guidance": """
scales = detour.study_guidance(study, out=Path("guidance"), scales=[1.0, 3.0])
""",
    "study_timesteps": """
when = detour.study_timesteps(study, out=Path("timesteps"), num_timesteps=2)
""",
    "study_blocks": """
where = detour.study_blocks(study, out=Path("blocks"))
""",
    "DetourError": """
try:
    detour.open_base("no such base")
except detour.DetourError as error:
    print(error)
""",
    "train_prompt_classifier": """
colours = ("red", "blue", "green", "pink", "white")
rows = ["text,unwanted"]
for place in ("hill", "roof", "lake", "road", "bed"):
    rows += [f"a {colour} crown on a {place},1" for colour in colours]
    rows += [f"a {colour} cat on a {place},0" for colour in colours]
Path("labelled.csv").write_text(chr(10).join(rows))
trained = detour.train_prompt_classifier(Path("labelled.csv"), out=Path("no-crowns"))
print(trained.unwanted, trained.features)
""",
    "check_safety_log": """
from detour.serving.store import JobStore

JobStore(Path("serve-state")).close()  # what 'detour serve' does at its start
log = detour.check_safety_log(Path("serve-state"))
print(len(log.entries), log.head)
""",
    "measure_policy": """
policy = ["version = 1", "name = 'no-crowns'", "[[terms.categories]]", "name = 'crowns'", "terms = ['crown']"]
Path("policy.toml").write_text(chr(10).join(policy))
cases = [
    '{"id": "1", "prompt": "a red crown", "unwanted": true, "kind": "plain"}',
    '{"id": "2", "prompt": "a red cat", "unwanted": false, "kind": "plain"}',
]
Path("cases.jsonl").write_text(chr(10).join(cases))
figures = detour.measure_policy(Path("policy.toml"), Path("cases.jsonl"), out=Path("measured"))
print(figures.to_json())
""",
    "estimate_cost": """
measured = {
    'pictures_finished_total{state="done"}': 10,
    'work_finished_total{state="done"}': 500,
    'phase_units_total{phase="denoiser"}': 500,
    'phase_seconds_total{phase="denoiser",clock="wall"}': 6,
    'passes_total{width="2",adapters="0"}': 250,
    'pass_area_total{width="2",adapters="0"}': 250,
    'pass_seconds_total{width="2",adapters="0",clock="wall"}': 6,
    "busy_seconds_total": 6,
    "idle_seconds_total": 54,
}
Path("metrics.txt").write_text("".join(f"detour_{name} {value}" + chr(10) for name, value in measured.items()))
prices = ['currency = "EUR"', "[machine]", 'name = "mine"', "per_hour = 0.5", "date = 2026-01-15"]
Path("prices.toml").write_text(chr(10).join(prices))
cost = detour.estimate_cost(Path("metrics.txt"), Path("prices.toml"), steps=[25])
print(cost.settings[0].cost, cost.settings[0].cost_interval)
""",
}
