"""Put multiple-choice questions, in writing and spoken, to systems (stage 12): EXPDIR/TAG/mc_NAME/answers.jsonl."""

from espnet_llmvq.cli.parser import Parser
from espnet_llmvq.decode.options import add_question_options, question_options
from espnet_llmvq.sequence.questions import MultipleChoice


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--examples", help="put with their answers before each question; without it the first ones of --questions"
    )
    add_question_options(parser, MultipleChoice)
    return parser


def split(questions, examples, shots, path):
    """(questions to score, examples before each of them). Raises UserError if too few are left of either."""
    from espnet_llmvq.base.errors import UserError

    if examples is None:
        questions, examples = questions[shots:], questions[:shots]
    shown = {q.id for q in examples} | {(q.question, q.choices) for q in examples}
    both = [q.id for q in questions if q.id in shown or (q.question, q.choices) in shown]
    if both:
        raise UserError(f"{path}: {both[0]} is an example and is asked too; take it out of one of the files")
    if len(examples) < shots or not questions:
        raise UserError(
            f"{path}: {len(examples)} examples and {len(questions)} questions to ask, but shots is {shots}; give more "
            "questions, more --examples or fewer --shots"
        )
    return questions, examples[:shots]


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.data.questions import MULTIPLE_CHOICE, read_questions

    options = question_options(args, MultipleChoice, "multiple_choice")
    examples = read_questions(args.examples, MULTIPLE_CHOICE) if args.examples else None
    questions = read_questions(args.questions, MULTIPLE_CHOICE)
    questions, examples = split(questions, examples, options.shots, args.questions)
    from espnet_llmvq.decode.ask import ask_all

    ask_all(args, MULTIPLE_CHOICE, options, questions, examples)
