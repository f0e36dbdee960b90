"""Upload a packed system with its model card to the Hugging Face hub (stage 17), or copy it to a local directory."""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("directory", help="packed system (stage 16)")
    parser.add_argument("--repo", help="model repository on the hub, OWNER/NAME; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="a repository that is made is private")
    parser.add_argument("--to", help="local directory to copy to instead; a packed one there is replaced")
    parser.add_argument("--dry_run", action="store_true", help="check, and list what would be uploaded")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.bundle.upload import copy_to, packed_files, upload_to

    if args.dry_run:
        names = packed_files(args.directory)
        for name in names:
            print(f"{os.path.getsize(os.path.join(args.directory, name)):>12} {name}")
        print(f"{len(names)} files would go to {args.repo or args.to or 'no place: give --repo'}")
    elif (args.repo is None) == (args.to is None):
        raise UserError("give --repo OWNER/NAME or --to DIRECTORY")
    elif args.to:
        copy_to(args.directory, args.to)
        print(f"{args.to}: copied")
    else:
        print(f"{upload_to(args.directory, args.repo, args.private)}: uploaded")
