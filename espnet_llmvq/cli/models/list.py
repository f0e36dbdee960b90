"""List the models that `llmvq models get` makes from packages: size, licence, and whether they are here."""

from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.parse_args(argv)
    from espnet_llmvq.models.catalogue import MB, MODELS
    from espnet_llmvq.models.get import PLACE, made

    for name, model in MODELS.items():
        state = f"in {PLACE / name}" if not made(name).difference() else f"not in {PLACE}"
        print(f"{name}: {model.what}")
        print(f"    download {model.download / MB:.0f} MB, then {model.size / MB:.0f} MB; {state}")
        print(f"    licence: {model.licence}" + ("; to be accepted by --accept_licence" if model.to_accept else ""))
    print("OWNER/NAME: any model of the Hugging Face hub that transformers read, under its own licence")
