"""Packed systems: the same model elsewhere, and a clear refusal of every directory that is not what was packed."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import standins
import torch
import yaml

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.hub import is_terms
from espnet_llmvq.base.made import Made
from espnet_llmvq.bundle.card import card
from espnet_llmvq.bundle.files import digest, list_files, replacing, verify
from espnet_llmvq.bundle.licences import recorded
from espnet_llmvq.bundle.model import load_packed, pack, small, small_dtype
from espnet_llmvq.bundle.upload import copy_to, upload_to
from espnet_llmvq.cli import pack as pack_command
from espnet_llmvq.cli import upload as upload_command

SEARCH = {"num_beams": 2, "length_penalty": 0.0, "ctc_weight": 0.0}


def sha(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def edit(path, change):
    """Change the JSON or YAML file `path` by a function of its content."""
    data = (json.loads if path.endswith(".json") else yaml.safe_load)(Path(path).read_text())
    change(data)
    Path(path).write_text(json.dumps(data) if path.endswith(".json") else yaml.safe_dump(data))


def sign(directory):
    """Make the manifest fit the files, as one who tampers would."""
    names = [n for n in list_files(directory) if n not in ("manifest.json", "README.md")]
    told = {n: {"size": os.path.getsize(f"{directory}/{n}"), "sha256": sha(f"{directory}/{n}")} for n in names}
    edit(f"{directory}/manifest.json", lambda m: m.update(files=told))


@pytest.fixture
def copied(packed_dir, tmp_path):
    return shutil.copytree(packed_dir, str(tmp_path / "elsewhere" / "model"))


def test_the_model_is_the_trained_one(packed_dir, trained_soft, tmp_path, monkeypatch):
    """Every tensor, from another directory and another working directory, without the experiment's files."""
    from espnet_llmvq.model.build import load_model

    model, _ = load_model(trained_soft[1])
    moved = shutil.copytree(packed_dir, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    packed = load_packed("moved")
    wanted = torch.nn.Module.state_dict(model)
    found = torch.nn.Module.state_dict(packed.model)
    assert wanted.keys() == found.keys() and any("lora_" in n for n in wanted)
    assert all(torch.equal(wanted[n], found[n]) for n in wanted)
    assert not packed.model.training and (packed.model.drop_blank, packed.model.merge_runs) == (0.95, True)
    text = (moved / "config.yaml").read_text()
    assert str(tmp_path.parent) not in text and trained_soft[0] not in text
    assert packed.manifest["prompt"] == "USER:{speech} ASSISTANT: {text}"
    assert packed.manifest["search"] == {**SEARCH, "tokens_per_second": 8.0}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, arguments):
    """{encoder: (model, packed directory)} of systems with stand-ins, whose directories are gone."""
    from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

    from espnet_llmvq.espnet.task import SpeechLLMTask
    from espnet_llmvq.speech.pretrained import settings

    found = {}
    for name, layer in (("wavlm", "weighted"), ("whisper", 1)):
        room = tmp_path_factory.mktemp(name)
        args = arguments(**settings(standins.ALL[name](room / "hf"), layer), frontend_conf={}, normalize_conf={})
        model = SpeechLLMTask.build_model(args).eval()
        if layer == "weighted":
            torch.nn.init.normal_(model.speech_encoder.layer_weights)
        (room / "exp").mkdir()
        (room / "exp/config.yaml").write_text(yaml_no_alias_safe_dump(vars(args)))
        torch.save(model.state_dict(), room / "exp/model.pth")
        prompt = "USER:{speech} ASSISTANT: {text}"
        pack(str(room / "exp"), str(room / "packed"), system="x", label="X", decode="llm", search=SEARCH, prompt=prompt)
        shutil.rmtree(room / "hf")
        found[name] = model, shutil.move(room / "packed", room / "moved")
    return found


def test_an_llm_whose_config_says_where_it_came_from(trained_soft, llm_dir, tmp_path):
    """As those do that were converted from GGUF."""
    said, phase = tmp_path / "llm", tmp_path / "soft"
    shutil.copytree(llm_dir, said)
    config = json.loads((said / "config.json").read_text())
    (said / "config.json").write_text(json.dumps({**config, "_model_name_or_path": "Llama 1 B"}))
    shutil.copytree(trained_soft[1], phase)
    trained = yaml.safe_load((phase / "config.yaml").read_text())
    (phase / "config.yaml").write_text(yaml.safe_dump({**trained, "llm": str(said)}))
    search = {"num_beams": 1, "length_penalty": 0.0, "ctc_weight": 0.0}
    pack(str(phase), str(tmp_path / "packed"), system="soft", label="", decode="llm", search=search)
    assert load_packed(str(tmp_path / "packed")).manifest["llm"] == "llm"


@pytest.fixture(scope="module")
def published(tmp_path_factory, arguments, corpus):
    """(exp directory with a model, its Whisper, its LLM): weights of both have values of 16 bits, as published ones."""
    from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump
    from safetensors.torch import load_file, save_file

    from espnet_llmvq.espnet.task import SpeechLLMTask
    from espnet_llmvq.speech.pretrained import settings

    room = tmp_path_factory.mktemp("published")
    whisper, llm = standins.whisper(room / "whisper"), standins.llama(room / "gemma")
    for path, dtype in ((f"{whisper}/model.safetensors", torch.float16), (f"{llm}/model.safetensors", torch.bfloat16)):
        save_file({n: v.to(dtype).float() for n, v in load_file(path).items()}, path, metadata={"format": "pt"})
    Path(whisper, "LICENSE").write_text("MIT License\n")
    Made(whisper, model="whisper").note(licence="MIT, https://licence")  # as `models get` does
    Path(llm, "GEMMA_TERMS.html").write_text("<p>Terms</p>\n")
    Path(llm, "NOTICE.md").write_text("Notice\n")
    args = arguments(**settings(whisper, 1), frontend_conf={}, normalize_conf={}, llm=llm)
    model = SpeechLLMTask.build_model(args).eval()
    (room / "exp").mkdir()
    (room / "exp/config.yaml").write_text(yaml_no_alias_safe_dump(vars(args)))
    torch.save(model.state_dict(), room / "exp/model.pth")
    return room / "exp", whisper, llm


HOW = dict(system="x", label="X", decode="llm", search=SEARCH, prompt="USER:{speech} ASSISTANT: {text}")


def test_sixteen_bits_where_nothing_is_lost(published, tmp_path, corpus):
    """Half of the bytes, and tensors and texts that are equal to the last bit."""
    from safetensors.torch import load_file

    from espnet_llmvq.model.build import load_model
    from espnet_llmvq.transcribe import Recogniser

    exp, whisper, llm = published
    pack(str(exp), str(tmp_path / "packed"), **HOW)
    stored = load_file(tmp_path / "packed/llm/model.safetensors")
    assert {v.dtype for v in stored.values()} == {torch.bfloat16}
    sizes = [os.path.getsize(f"{path}/model.safetensors") for path in (tmp_path / "packed/llm", llm)]
    assert sizes[0] < 0.6 * sizes[1]
    own = load_file(tmp_path / "packed/model.safetensors")
    assert {v.dtype for n, v in own.items() if n.startswith("speech_encoder.pretrained.layers")} == {torch.float16}
    assert torch.float32 in {v.dtype for n, v in own.items() if n.startswith("bridge.")}  # trained here
    model, _ = load_model(str(exp))
    recogniser = Recogniser(str(tmp_path / "packed"))
    wanted, found = (torch.nn.Module.state_dict(m) for m in (model, recogniser.model))
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
    files = [f"{corpus.dir}/valid0{i}.wav" for i in range(3)]
    texts = [recogniser(file).text for file in files]
    recogniser.model = model
    assert any(texts) and [recogniser(file).text for file in files] == texts


def test_sixteen_bits_only_where_they_hold_every_value():
    half, brain = torch.tensor([1.5, -0.0]), torch.tensor([2.0**100, 1.0])
    assert small(half).dtype == torch.float16 and small(brain).dtype == torch.bfloat16
    for tensor in (torch.tensor([0.1]), torch.tensor([1.5, 2.0**100, 1 + 2.0**-10]), torch.tensor([float("nan")])):
        assert small(tensor).dtype == torch.float32
    assert small(torch.tensor([1, 2])).dtype == torch.int64
    # All tensors of an LLM get one type, those that are in another than float32 too.
    assert small_dtype([half, brain]) == small_dtype([half, brain.bfloat16()]) == torch.bfloat16
    assert small_dtype([torch.tensor([1 + 2.0**-10]), brain.bfloat16()]) is None
    assert small_dtype([half, torch.tensor([1 + 2.0**-10]).half(), torch.tensor([3])]) == torch.float16
    assert small_dtype([half.half(), brain.bfloat16()]) is None


def test_licences_are_inside(published, tmp_path):
    exp, whisper, llm = published
    data, text = tmp_path / "LICENCE-data.md", tmp_path / "LICENCE [text] of CC-BY-4.0.txt"
    data.write_text("CC BY 4.0\n")
    text.write_text("CC BY 4.0\n")
    about = tmp_path / "card.md"
    about.write_text("---\nlicense: gemma\nlanguage: en\n---\n\n## Data\n\nFour hours.\n")
    out = str(tmp_path / "packed")
    pack(str(exp), out, **HOW, about=str(about), licence=[str(data), str(text)])
    inside = [name for name in list_files(out) if name.startswith("licences/")]
    assert inside == [
        "licences/LICENCE [text] of CC-BY-4.0.txt", "licences/LICENCE-data.md", "licences/encoder/LICENSE",
        "licences/llm/GEMMA_TERMS.html", "licences/llm/NOTICE.md",
    ]  # fmt: skip
    for name, source in zip(inside, (text, data, f"{whisper}/LICENSE", f"{llm}/GEMMA_TERMS.html", f"{llm}/NOTICE.md")):
        assert Path(out, name).read_bytes() == Path(source).read_bytes()
    text = Path(out, "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "gemma" and header["language"] == "en" and header["library_name"] == "espnet_llmvq"
    assert "## Data\n\nFour hours.\n" in text and all(f"]({name})" in text for name in inside[1:])
    assert "- [LICENCE \\[text\\] of CC-BY-4.0.txt](licences/LICENCE%20%5Btext%5D%20of%20CC-BY-4.0.txt)\n" in text
    assert "- The pretrained encoder: MIT, https://licence; [LICENSE](licences/encoder/LICENSE)\n" in text
    assert load_packed(out).manifest["licences"] == {"llm": "", "encoder": "MIT, https://licence"}
    hub = FakeHub(tmp_path / "hub")
    upload_to(out, "owner/name", api=hub)
    assert list_files(tmp_path / "hub") == list_files(out)
    # A name that is a licence's is no way in for code.
    foreign("licences/policy.py")(out)
    sign(out)
    with pytest.raises(UserError, match="licences/policy.py is none of"):
        load_packed(out)
    for given, message in (
        (tmp_path / "nowhere", "nowhere: not a file of text whose name says licence"),
        (about, "card.md: not a file of text whose name says licence"),
    ):
        with pytest.raises(UserError, match=message):
            pack(str(exp), str(tmp_path / "other"), **HOW, licence=[str(given)])
    with pytest.raises(UserError, match="LICENCE-data.md: two files of this name"):
        pack(str(exp), str(tmp_path / "other"), **HOW, licence=[str(data), str(data)])
    for wrong in ("a: [", "- a", "1: a"):
        about.write_text(f"---\n{wrong}\n---\n")
        with pytest.raises(UserError, match="card.md: what stands between its first two lines --- is no mapping in"):
            pack(str(exp), str(tmp_path / "other"), **HOW, about=str(about))
    assert not (tmp_path / "other").exists()


def test_a_pack_that_is_too_large_is_not_made(published, tmp_path):
    exp, *_ = published
    pack(str(exp), str(tmp_path / "packed"), **HOW)
    size = sum(os.path.getsize(tmp_path / "packed" / name) for name in list_files(tmp_path / "packed")) / 1e6
    before = sha(tmp_path / "packed/manifest.json")
    pattern = rf"packed would have {size:.1f} MB, more than --max_mb 0.01: .*model.safetensors .*nothing was written"
    with pytest.raises(UserError, match=pattern):
        pack(str(exp), str(tmp_path / "packed"), **HOW, max_mb=0.01)
    for most in (size - 1e-6, float("nan")):  # manifest and card count
        with pytest.raises(UserError, match="more than --max_mb"):
            pack(str(exp), str(tmp_path / "packed"), **HOW, max_mb=most)
    assert os.listdir(tmp_path) == ["packed"] and sha(tmp_path / "packed/manifest.json") == before
    pack(str(exp), str(tmp_path / "packed"), **HOW, max_mb=size + 1e-9)


def test_no_licence_is_lost_that_is_given_with_another_option():
    """As `--pack_opts "--licence FILE"` does, behind those of the recipe."""
    args = pack_command.get_parser().parse_args(
        ["--system", "x", "--out", "y", "--licence", "a", "b", "--max_mb", "1", "--licence", "c"]
    )
    assert args.licence == ["a", "b", "c"]


def test_what_is_recorded_of_a_licence(tmp_path):
    """Of an LLM of the hub whose tables were cut here, not that it was trained here."""
    for name, inputs, options, told in (
        ("get", {}, {"model": "x"}, ""),
        ("trained", {"tokenizer": "t"}, {"config": {}}, "trained from nothing by the recipe"),
        ("trim", {"text 1": "t"}, {"size": None, "hub": "owner/name"}, "of owner/name on the hub"),
        ("trim_local", {"text 1": "t", "llm": str(tmp_path / "get")}, {"size": None, "hub": None}, ""),
    ):
        (tmp_path / name).mkdir()
        Made(tmp_path / name, inputs, **options).note()
        assert recorded(tmp_path / name) == told
    assert recorded(tmp_path) == ""


@pytest.mark.parametrize(
    "name", ["LICENSE", "LICENSE-2.0", "Apache-2.0-licence.rst", "Terms_v1.1.html", "USE POLICY.md"]
)
def test_files_of_licences(name):
    assert is_terms(name) and is_terms(f"docs/{name}")


@pytest.mark.parametrize(
    "name", ["policy.py", "license.json", "LICENSE-2.0.pkl", "policy.7z", "LICENSE.txt.bin", "README"]
)
def test_files_of_no_licence(name):
    assert not is_terms(name)


@pytest.mark.parametrize("name", ["wavlm", "whisper"])
def test_a_pretrained_encoder_is_inside(name, pretrained, corpus):
    from espnet_llmvq.transcribe import Recogniser

    model, directory = pretrained[name]
    assert sorted(os.listdir(directory / "encoder")) == ["config.json", "preprocessor_config.json"]
    for path in (*directory.glob("*.*"), *directory.glob("*/*.json")):
        assert str(directory.parent).encode() not in path.read_bytes(), path
    recogniser = Recogniser(str(directory))
    found = torch.nn.Module.state_dict(recogniser.model)
    wanted = torch.nn.Module.state_dict(model)
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[n], found[n]) for n in wanted)
    wave, length = 0.1 * torch.randn(1, 20000), torch.tensor([20000])
    with torch.inference_mode():
        assert torch.equal(model.encode(wave, length)[0], recogniser.model.encode(wave, length)[0])
    text = recogniser(f"{corpus.dir}/valid00.wav").text
    recogniser.model = model
    assert text and recogniser(f"{corpus.dir}/valid00.wav").text == text


def test_a_pretrained_encoder_is_read_from_inside_alone(pretrained, tmp_path):
    from safetensors.torch import load_file, save_file

    def damaged(name, change):
        copy = shutil.copytree(pretrained["whisper"][1], tmp_path / name)
        change(copy)
        sign(str(copy))
        return str(copy)

    def lose(copy):
        state = load_file(copy / "model.safetensors")
        del state["speech_encoder.pretrained.conv1.weight"]
        save_file(state, copy / "model.safetensors")

    def edited(file, change):
        return lambda copy: edit(str(copy / file), change)

    elsewhere = edited("config.yaml", lambda c: c["encoder_conf"].update(path="/elsewhere", weights=True))
    load_packed(damaged("path", elsewhere))
    with pytest.raises(UserError, match=r"1 tensors missing: speech_encoder.pretrained.conv1.weight"):
        load_packed(damaged("tensor", lose))
    with pytest.raises(UserError, match="auto_map asks for code"):
        load_packed(damaged("code", edited("encoder/config.json", lambda c: c.update(auto_map={"AutoModel": "x.Y"}))))


def test_files_of_a_packed_system(packed_dir):
    manifest = json.loads(Path(packed_dir, "manifest.json").read_text())
    names = list_files(packed_dir)
    assert sorted([*manifest["files"], "manifest.json", "README.md"]) == names
    for name, told in manifest["files"].items():
        assert told["sha256"] == sha(f"{packed_dir}/{name}")
        assert os.stat(f"{packed_dir}/{name}").st_mode & 0o044 == 0o044
    assert {os.path.splitext(n)[1] for n in names} <= {".safetensors", ".json", ".yaml", ".md", ".model"}
    # twice the longest of the 12 training utterances, each of 1 to 4 tones of at most 0.2 s
    assert 1.0 <= manifest["max_segment"] <= 1.6
    assert [n for n in os.listdir(os.path.dirname(packed_dir))] == ["soft"]


def remove(name):
    return lambda d: os.remove(f"{d}/{name}")


def foreign(name):
    def add(d):
        Path(d, name).parent.mkdir(parents=True, exist_ok=True)
        Path(d, name).write_text("x")

    return add


def rewritten(name, change):
    """The bytes of a file as a function makes them."""
    return lambda d: Path(d, name).write_bytes(change(Path(d, name).read_bytes()))


def flip(name):
    return rewritten(name, lambda x: x[:-1] + bytes([x[-1] ^ 1]))


def listed(name):
    """A manifest that names a file of that path, which exists."""

    def change(d):
        foreign(name)(d)
        told = {"size": 1, "sha256": sha(f"{d}/{name}")}
        edit(f"{d}/manifest.json", lambda m: m["files"].update({name: told}))

    return change


def linked(d):
    shutil.move(f"{d}/llm", f"{d}/../llm")
    os.symlink("../llm", f"{d}/llm")


def linked_card(d):
    os.remove(f"{d}/README.md")
    os.symlink("/etc/hostname", f"{d}/README.md")


def manifest(**values):
    return lambda d: edit(f"{d}/manifest.json", lambda m: m.update(values))


def signed(name, change):
    def tamper(d):
        edit(f"{d}/{name}", change)
        sign(d)

    return tamper


def added(name, content):
    """A JSON file more, which the manifest names."""

    def tamper(d):
        Path(d, name).write_text(json.dumps(content))
        sign(d)

    return tamper


adapter = added("llm/adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "gpt2"})
shards = added("llm/model.safetensors.index.json", {"weight_map": {"lm_head.weight": "../../x.safetensors"}})


def other_shape(d):
    from safetensors.torch import load_file, save_file

    state = load_file(f"{d}/model.safetensors")
    save_file({**state, "bridge.codebook": state["bridge.codebook"][:-1].clone()}, f"{d}/model.safetensors")
    sign(d)


def other_tensors(d):
    from safetensors.torch import save_file

    save_file({"encoder.weight": torch.zeros(3)}, f"{d}/model.safetensors")
    sign(d)


def no_tensors(d):
    Path(d, "model.safetensors").write_bytes(b"\x80\x04K\x01.")  # a pickle
    sign(d)


@pytest.mark.parametrize(
    "tamper, message",
    [
        (remove("manifest.json"), r"manifest.json does not exist; pack the system \(stage 16\)"),
        (rewritten("manifest.json", lambda x: b"{"), "manifest.json: cannot be read"),
        (manifest(format="other"), "is not of a packed system"),
        (manifest(version=99), "version 99 of the format, this program reads 1"),
        (lambda d: edit(f"{d}/manifest.json", lambda m: m.pop("search")), "manifest.json lacks search"),
        (manifest(search={"num_beams": 1}), "search is {'num_beams': 1}, which is not possible"),
        (manifest(search={**SEARCH, "num_beams": "4"}), "search is .*, which is not possible"),
        (manifest(search={**SEARCH, "draft": "lm"}), "search is .*'draft': 'lm'}, which is not possible"),
        (manifest(max_segment="x"), "max_segment is 'x', which is not possible"),
        (manifest(prompt=None), "a system with an LLM has no prompt"),
        (manifest(files=3), "files is 3, which is not possible"),
        (manifest(llm="../../llm"), "llm is '../../llm', which is not possible"),
        (manifest(llm="/elsewhere/llm"), "llm is '/elsewhere/llm'"),
        (remove("model.safetensors"), "lacks model.safetensors; copy it again"),
        (remove("llm/tokenizer.json"), "lacks llm/tokenizer.json"),
        (foreign("pytorch_model.bin"), "pytorch_model.bin is not in manifest.json"),
        (foreign("llm/modeling.py"), "llm/modeling.py is not in manifest.json"),
        (flip("model.safetensors"), r"model.safetensors is not what was packed \(SHA-256 differs\)"),
        (flip("llm/tokenizer.json"), "llm/tokenizer.json is not what was packed"),
        (listed("../outside.json"), "the file '../outside.json' lies outside of the directory"),
        (listed("llm/../../outside.json"), "lies outside of the directory"),
        (listed("llm/extra.pkl"), "llm/extra.pkl is none of .*; pickles and code are not loaded"),
        (manifest(files={"/etc/hostname": {}}), "the file '/etc/hostname' lies outside"),
        (linked, "is a link to .*, outside of the directory"),
        (linked_card, "README.md is a link"),
        (signed("config.yaml", lambda c: c.update(bridg="soft")), "unknown key in .*'bridg'.*'bridge'"),
        (signed("config.yaml", lambda c: c.pop("encoder")), "config.yaml lacks encoder; pack the system again"),
        (
            signed("config.yaml", lambda c: c["encoder_conf"].update(output_size=24)),
            "model.safetensors: checkpoint does not fit the model: .* tensors of other shapes",
        ),
        (signed("config.yaml", lambda c: c["encoder_conf"].update(attention_heads="two")), "cannot build its model"),
        (signed("llm/config.json", lambda c: c.update(auto_map={"AutoModel": "x.Y"})), "auto_map asks for code"),
        (
            signed(
                "config.yaml", lambda c: c.update(normalize="global_mvn", normalize_conf={"stats_file": "/out.npy"})
            ),
            "config.yaml: stats_file reads /out.npy, which a packed system cannot hold",
        ),
        (
            signed("config.yaml", lambda c: c["llm_conf"]["lora"].update(corda_config={"cache_file": "../x.pt"})),
            "config.yaml: cache_file reads ../x.pt",
        ),
        (
            signed("config.yaml", lambda c: c["llm_conf"]["lora"].update(megatron_config={"a": 1}, megatron_core="x")),
            "megatron_config would import a module by its name",
        ),
        (signed("config.yaml", lambda c: c["llm_conf"].update(attn_implementation="a/b")), "a/b: use one of eager"),
        (signed("llm/config.json", lambda c: c.update(attn_implementation="a/b")), "a/b: use one of eager"),
        (signed("llm/config.json", lambda c: c.update(transformers_weights="/x.safetensors")), "reads /x.safetensors"),
        (signed("llm/tokenizer_config.json", lambda c: c.update(tokenizer_file="/x.json")), "tokenizer_file reads /x"),
        (signed("llm/tokenizer_config.json", lambda c: c.update(fast_tokenizer_files=["../x"])), "reads .'../x'."),
        (adapter, "adapter_config.json: stands for another LLM, which is not in the directory"),
        (shards, "index.json: names llm/../../x.safetensors, which is not in manifest.json"),
        (other_shape, "model.safetensors: .* 1 tensors of other shapes: bridge.codebook"),
        (other_tensors, "model.safetensors: .* tensors missing"),
        (no_tensors, "model.safetensors cannot be read"),
    ],
)
def test_a_directory_that_is_not_what_was_packed(copied, tamper, message):
    tamper(copied)
    with pytest.raises(UserError, match=message):
        load_packed(copied)


@pytest.mark.parametrize("name, here", [("gpt2", "gpt2"), ("owner/tiny", "owner"), ("owner/tiny", "owner/tiny")])
def test_a_name_of_the_hub_is_no_directory_of_the_working_directory(copied, llm_dir, tmp_path, monkeypatch, name, here):
    manifest(llm=name)(copied)
    monkeypatch.chdir(tmp_path)
    Path(here).parent.mkdir(exist_ok=True)
    shutil.copytree(llm_dir, here)
    with pytest.raises(UserError, match=f"needs the LLM {name} of the hub, in whose place .*go to another directory"):
        load_packed(copied)
    assert load_packed(copied, llm=llm_dir)


def test_what_may_change(copied):
    """The card, and what git and huggingface_hub leave behind."""
    for name in ("README.md", ".gitattributes", ".git/config", ".cache/huggingface/x.lock"):
        foreign(name)(copied)
    assert verify(copied)["system"] == "soft"


def test_a_failure_leaves_nothing(trained_soft, packed_dir, tmp_path, monkeypatch):
    def failing(*args, **kwargs):
        raise UserError("no")

    common = dict(system="soft", label="", decode="llm", search=SEARCH)
    monkeypatch.setattr("espnet_llmvq.bundle.model.load_packed", failing)
    with pytest.raises(UserError, match="no"):
        pack(trained_soft[1], str(tmp_path / "new"), **common)
    shutil.copytree(packed_dir, tmp_path / "old")
    with pytest.raises(UserError, match="no"):
        pack(trained_soft[1], str(tmp_path / "old"), **common)
    assert os.listdir(tmp_path) == ["old"] and verify(tmp_path / "old")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="mine exists and is not a packed system"):
        pack(trained_soft[1], str(tmp_path / "mine"), **common)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_an_llm_by_name(trained_soft, llm_dir, tmp_path):
    """Only its tokenizer is inside; another LLM of that name is found out."""
    import transformers

    out = str(tmp_path / "named")
    pack(trained_soft[1], out, system="soft", label="", decode="llm", search=SEARCH, llm="owner/tiny")
    assert {n for n in list_files(out) if n.startswith("llm/")} == {"llm/tokenizer.json", "llm/tokenizer_config.json"}
    assert "base_model: owner/tiny" in Path(out, "README.md").read_text()
    assert load_packed(out, llm=llm_dir).manifest["llm"] == "owner/tiny"
    with pytest.raises(UserError, match="owner/tiny: cannot be read .*or give a local directory"):  # tests are offline
        load_packed(out)
    other = shutil.copytree(llm_dir, str(tmp_path / "other"))
    llm = transformers.AutoModelForCausalLM.from_pretrained(other)
    llm.get_input_embeddings().weight.data[5, 0] += 0.01
    llm.save_pretrained(other)
    with pytest.raises(UserError, match="is not the LLM that it was trained with"):
        load_packed(out, llm=other)


def test_a_trained_llm_by_name(trained_soft, settings, llm_dir, tmp_path):
    """What was trained comes from the directory; the name stands for what training began with."""
    from espnet_llmvq.espnet.run import train_phase
    from espnet_llmvq.llm.directory import load_llm
    from espnet_llmvq.model.build import load_model

    phase, out = str(tmp_path / "phase"), str(tmp_path / "named")
    file = os.path.join(trained_soft[0], "model.pth")
    train_phase(phase, settings(encoder_file=file, specaug=None, max_epoch=1), 1)
    pack(phase, out, system="a", label="", decode="llm", search=SEARCH, llm="owner/tiny")
    found = load_packed(out, llm=llm_dir).model.state_dict()
    state = load_model(phase)[0].state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    table = "llm.model.embed_tokens.weight"
    untrained = load_llm(llm_dir).get_input_embeddings().weight
    assert not torch.equal(found[table], untrained)


def test_statistics_in_a_file_cannot_be_packed(trained_soft, tmp_path, monkeypatch):
    from espnet_llmvq.model import build as building

    def loaded(directory, load=building.load_model):
        model, config = load(directory)
        return model, {**config, "normalize_conf": {"stats_file": "stats.npz"}}

    monkeypatch.setattr(building, "load_model", loaded)
    with pytest.raises(UserError, match="reads stats.npz, which a packed system cannot hold"):
        pack(trained_soft[1], str(tmp_path / "out"), system="soft", label="", decode="llm", search=SEARCH)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_packed_system_is_replaced_or_stays(tmp_path, monkeypatch, ending):
    def made(name, version):
        (tmp_path / name).mkdir(exist_ok=True)
        text = json.dumps({"format": "espnet_llmvq packed system", "made": version})
        (tmp_path / name / "manifest.json").write_text(text)

    def version(name):
        return json.loads((tmp_path / name / "manifest.json").read_text())["made"]

    def replace(name):
        with replacing(f"{tmp_path}/{name}{ending}") as temporary:
            made(temporary, 2)

    def failing(old, new, rename=os.rename):
        if old.endswith("-tmp"):
            raise OSError("no")
        rename(old, new)

    made("out", 1)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
        patch.setattr(os, "rename", failing)
        replace("out")
    assert version("out") == 1
    # a link gives way, what it leads to does not
    os.symlink(tmp_path / "out", tmp_path / "link")
    replace("link")
    assert (version("link"), version("out")) == (2, 1) and not os.path.islink(tmp_path / "link")
    replace("out")
    assert version("out") == 2
    assert sorted(os.listdir(tmp_path)) == ["link", "out"]


def test_what_a_person_put_into_a_packed_system_stays(tmp_path):
    """A clone of the hub's repository, an edited card, files of their own; links too."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text("a: 1\n")
    (out / "README.md").write_text("# Card\n")
    packed = {"format": "espnet_llmvq packed system", "card": digest(out / "README.md")}
    (out / "manifest.json").write_text(json.dumps({**packed, "files": {"config.yaml": digest(out / "config.yaml")}}))

    def replace():
        with replacing(str(out)) as temporary:
            shutil.copytree(whole, temporary, dirs_exist_ok=True)

    whole = shutil.copytree(out, tmp_path / "whole")
    replace()
    for name in (".git/HEAD", "notes.txt", "README.md", "config.yaml", "link"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).symlink_to(whole) if name == "link" else (out / name).write_text("mine")
        with pytest.raises(UserError, match=f"out/{name} is not what was packed, and would be lost; move it away"):
            replace()
        assert (out / name).is_symlink() or (out / name).read_text() == "mine"
        (out / name).unlink()
        if (whole / name).exists():
            shutil.copy(whole / name, out / name)
    replace()


@pytest.fixture
def recipe(tmp_path, trained_soft, experiment_of):
    """EXPDIR of an experiment with systems soft, ctc and fusion."""
    encoder, phase = trained_soft
    phase = shutil.copytree(phase, tmp_path / "exp" / "soft")
    systems = {"soft": str(phase), "ctc": "ctc", "fusion": "ctc_lm"}
    experiment_of(tmp_path, systems, {}, encoder=encoder, labels={"soft": "Soft-VQ"})
    return tmp_path / "exp"


def row(system, name, value):
    return {"system": system, "kind": "set", "set": name, "domain": "id", "metric": "wer", "value": value, "low": 1.0,
            "high": 9.5, "utterances": 5, "words": 700, "seed": 1, "normaliser": "basic"}  # fmt: skip


def test_pack_command(recipe, tmp_path, capsys):
    """It searches as stage 12 did, and its card shows the results of the system."""
    for name in ("a", "b"):
        made = {"num_beams": 3, "length_penalty": 0.0, "ctc_weight": 0.3, "torch": "2"}
        os.makedirs(recipe / "soft" / f"decode_{name}")
        (recipe / "soft" / f"decode_{name}" / "environment.json").write_text(json.dumps(made))
    rows = [row("soft", "test", 4.56), row("ctc", "test", 7.89)]
    (recipe / "results.json").write_text(json.dumps(rows))
    command = ["--exp", str(recipe), "--out", str(tmp_path / "out")]
    pack_command.main([*command, "--system", "soft"])
    assert "out: soft, " in capsys.readouterr().out
    found = verify(tmp_path / "out")
    assert found["search"] == {"num_beams": 3, "length_penalty": 0.0, "ctc_weight": 0.3, "tokens_per_second": 8.0}
    text = (tmp_path / "out" / "README.md").read_text()
    assert "# Soft-VQ" in text
    table = [[c.strip(" *") for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["Soft-VQ (this one)", "4.56** [1.00, 9.50]"] in table and ["ctc", "7.89 [1.00, 9.50]"] in table
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "automatic-speech-recognition"
    # in place of the one before, with another search
    pack_command.main([*command, "--system", "soft", "--num_beams", "1"])
    assert verify(tmp_path / "out")["search"] == {
        "num_beams": 1,
        "length_penalty": 0.0,
        "ctc_weight": 0.3,
        "tokens_per_second": 8.0,
    }
    with pytest.raises(UserError, match="system soft: draft ctc is a greedy search, but num_beams is 3; give 1"):
        pack_command.main([*command, "--system", "soft", "--draft", "ctc"])
    with pytest.raises(UserError, match="draft_accept 2.0 must be 0 to 1"):
        pack_command.main([*command, "--system", "soft", "--draft_accept", "2"])
    drafted = {"num_beams": 1, "length_penalty": 0.0, "draft": "ctc", "draft_accept": 0.5}
    for name in ("a", "b"):
        (recipe / "soft" / f"decode_{name}" / "environment.json").write_text(json.dumps(drafted))
    pack_command.main([*command, "--system", "soft"])
    assert verify(tmp_path / "out")["search"].items() >= drafted.items()
    facts = recipe / "soft" / "decode_b" / "environment.json"
    for text, message in (
        ('{"num_beams": 4}', "decoded with .*another set.*--num_beams"),
        (
            '{"num_beams": 1, "joint_ctc": 0.4}',
            "decoded with --joint_ctc, which packed systems do not have; give all of",
        ),
        ('{"num_', "cannot be read .*decode again"),
    ):
        facts.write_text(text)
        with pytest.raises(UserError, match=f"decode_b/environment.json: {message}"):
            pack_command.main([*command, "--system", "soft"])
    for name, message in (("fusion", "ctc_lm cannot be packed"), ("both", "unknown system"), ("sofd", "did you mean"),
                          ("soft ctc", "unknown system"), ("", "unknown system")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            pack_command.main([*command, "--system", name])
    assert sorted(os.listdir(tmp_path)) == ["exp", "out"]


def test_pack_of_the_encoder_alone(recipe, tmp_path):
    pack_command.main(["--exp", str(recipe), "--system", "ctc", "--out", str(tmp_path / "out")])
    packed = load_packed(str(tmp_path / "out"))
    assert packed.model.llm is None and packed.manifest["prompt"] is None
    assert "llm/config.json" not in packed.manifest["files"]
    told = (tmp_path / "out" / "README.md").read_text()
    assert "encoder and CTC head in" in told and "The LLM" not in told


def test_card_without_results(packed_dir):
    text = card(verify(packed_dir))
    assert "packed without results" in text and "Recogniser(" in text and "beam 2" in text


class FakeHub:
    """Keeps what is sent, as files; `error` is raised instead."""

    def __init__(self, room, error=None):
        self.room, self.error, self.calls = room, error, []

    def create_repo(self, repo, private, exist_ok):
        if self.error:
            raise self.error
        self.calls.append((repo, private, exist_ok))
        return f"https://hub/{repo}"

    def upload_folder(self, repo_id, folder_path, allow_patterns, delete_patterns, commit_message):
        from huggingface_hub.utils import filter_repo_objects

        for name in filter_repo_objects(list_files(folder_path), allow_patterns=allow_patterns):
            os.makedirs(os.path.dirname(self.room / name), exist_ok=True)
            shutil.copyfile(os.path.join(folder_path, name), self.room / name)


def test_upload(copied, tmp_path):
    """What arrives is a packed system."""
    foreign(".cache/huggingface/x.lock")(copied)
    hub = FakeHub(tmp_path / "hub")
    assert upload_to(copied, "owner/name", private=True, api=hub) == "https://hub/owner/name"
    assert hub.calls == [("owner/name", True, True)]
    assert list_files(tmp_path / "hub") == list_files(copied)
    assert not (tmp_path / "hub" / ".cache").exists()
    assert load_packed(str(tmp_path / "hub")).manifest["system"] == "soft"


def test_upload_errors(copied, tmp_path):
    from huggingface_hub.errors import LocalTokenNotFoundError

    for repo in ("name", "a/b/c", "owner/../name", "owner/na me"):
        with pytest.raises(UserError, match="expected OWNER/NAME"):
            upload_to(copied, repo, api=FakeHub(tmp_path))
    for error, message in (
        (LocalTokenNotFoundError("x"), "run `hf auth login`"),
        (OSError("no route\nmore"), "cannot upload to owner/name: no route$"),
    ):
        with pytest.raises(UserError, match=message):
            upload_to(copied, "owner/name", api=FakeHub(tmp_path, error))
    os.remove(f"{copied}/README.md")
    with pytest.raises(UserError, match="has no README.md, its model card"):
        upload_to(copied, "owner/name", api=FakeHub(tmp_path))


def test_upload_command_to_a_directory(copied, tmp_path, capsys):
    upload_command.main([copied, "--to", str(tmp_path / "there")])
    assert list_files(tmp_path / "there") == list_files(copied) and verify(tmp_path / "there")
    upload_command.main([copied, "--repo", "owner/name", "--dry_run"])
    out = capsys.readouterr().out
    assert "model.safetensors" in out and f"{len(list_files(copied))} files would go to owner/name" in out
    with pytest.raises(UserError, match="give --repo OWNER/NAME or --to DIRECTORY"):
        upload_command.main([copied])
    flip("model.safetensors")(copied)
    for more in (["--dry_run"], ["--to", str(tmp_path / "other")]):
        with pytest.raises(UserError, match="is not what was packed"):
            upload_command.main([copied, *more])
    with pytest.raises(UserError, match="is not what was packed"):
        copy_to(copied, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
