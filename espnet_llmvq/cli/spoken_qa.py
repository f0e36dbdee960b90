"""Put open questions, in writing and spoken, to systems (stage 12): EXPDIR/TAG/sqa_NAME/answers.jsonl."""

from espnet_llmvq.cli.parser import Parser
from espnet_llmvq.decode.options import add_question_options, question_options
from espnet_llmvq.sequence.questions import OpenQuestions


def main(argv=None):
    parser = Parser(description=__doc__)
    add_question_options(parser, OpenQuestions)
    args = parser.parse_args(argv)
    from espnet_llmvq.data.questions import OPEN, read_questions

    options = question_options(args, OpenQuestions, "spoken_qa")
    questions = read_questions(args.questions, OPEN)
    from espnet_llmvq.decode.ask import ask_all

    ask_all(args, OPEN, options, questions, [])
