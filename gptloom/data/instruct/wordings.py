"""How a labelled row is asked for, in several wordings a task, as instruction mixes do (Wei et al. 2022, section 2.1).

A wording is a text with names in braces, for which a row's own texts are put. Where the answer is one of several they all
stand in it, so that a task can be followed that was never trained on: ``{options}`` in a sentence, ``{listed}`` on lines.
``{about}`` is what a text is (``film review``), ``{wanted}`` what of it is asked for (``sentiment``, ``headline``).
"""

from __future__ import annotations

CLASSIFY = (
    "What is the {wanted} of this {about}: {options}?\n\n{text}",
    "{text}\n\nWhat is the {wanted} of this {about}? Answer with {options}.",
    "Read this {about} and name its {wanted}.\n\n{text}\n\nPossible answers: {options}.",
    "Give the {wanted} of the following {about}. It is one of: {options}.\n\n{text}",
    'This {about} says: "{text}"\nWhich {wanted} fits it, {options}?',
    "Choose the {wanted} that fits the {about} below.\nOptions: {options}\n\n{text}",
    "{about}: {text}\n{wanted} ({options}):",
    "Sort this {about} by {wanted} into {options}.\n\n{text}",
)

ENTAIL = (
    "{text}\n\nDoes it follow that the next sentence is true? Answer with {options}.\n\n{second}",
    'Suppose this is so: "{text}"\nIs it then the case that "{second}"? Say {options}.',
    "Premise: {text}\nHypothesis: {second}\nDoes the premise make the hypothesis true? Options: {options}.",
    "Read this.\n\n{text}\n\nCan we conclude the following from it: {options}?\n\n{second}",
    "First: {text}\nSecond: {second}\nIf the first holds, does the second? ({options})",
    'Judge the claim "{second}" by this text alone, with {options}.\n\n{text}',
    "{text}\n\nClaim: {second}\nIs the claim supported by what stands above it? {options}?",
    "Does the first sentence imply the second one? Choose from {options}.\n1. {text}\n2. {second}",
)

SIMILAR = (
    "Do these two sentences mean the same? Answer with {options}.\n\n{text}\n{second}",
    "1. {text}\n2. {second}\n\nAre 1 and 2 two ways of saying one thing: {options}?",
    'Is "{second}" another way to put "{text}"? Say {options}.',
    "First sentence: {text}\nSecond sentence: {second}\nSame meaning? Options: {options}.",
    "Compare what these sentences say.\n\n{text}\n\n{second}\n\nIs it the same? {options}",
    "{text}\n\nCould one say this instead without changing the sense: {options}?\n\n{second}",
    "Tell whether the two lines below agree in meaning, with {options}.\n\n{text}\n{second}",
)

SIMILAR_SCORE = (
    "How alike in meaning are these two sentences, from {lowest} (not at all) to {highest} (the same)?\n\n{text}\n{second}",
    "1. {text}\n2. {second}\n\nRate how close 1 and 2 are in meaning, from {lowest} to {highest}.",
    'Give a number from {lowest} to {highest} for how much "{text}" and "{second}" say the same.',
    "First sentence: {text}\nSecond sentence: {second}\nSimilarity of meaning ({lowest} to {highest}):",
    "Compare the two lines and score their similarity; {highest} is equal in meaning, {lowest} unrelated.\n\n{text}\n{second}",
    "{text}\n\nHow near in meaning is the next sentence? Answer from {lowest} to {highest}.\n\n{second}",
)

CHOICE = (
    "{text}\n\nChoose the answer that fits best.\n{listed}",
    "Which of these goes with what is said below?\n{listed}\n\n{text}",
    "{text}\nPick one:\n{listed}",
    "Read the text and choose.\n\nText: {text}\n\nChoices:\n{listed}",
    "{text}\n\nOne of the following is right. Write it down.\n{listed}",
    "Options:\n{listed}\n\nTake the option that answers this: {text}",
    "What is the best reply to this?\n\n{text}\n\n{listed}",
)

QUESTION = (
    "{question}",
    "Question: {question}\nAnswer:",
    "Answer this question: {question}",
    "Please answer.\n\n{question}",
    "Here is a question. What is its answer?\n\n{question}",
    "Find the answer to the following.\n\n{question}",
    "Q: {question}\nA:",
)

QUESTION_ON_TEXT = (
    "{text}\n\n{question}",
    "Answer the question by the text.\n\nText: {text}\n\nQuestion: {question}",
    "Read this passage and answer what follows.\n\n{text}\n\n{question}",
    "{question}\n\nThe answer stands in this passage: {text}",
    "Passage: {text}\nQuestion: {question}\nAnswer:",
    "Find the answer in the text below, and give it in the words of the text.\n\n{question}\n\n{text}",
    "Use this text:\n{text}\n\nto answer: {question}",
    "Here is a passage.\n\n{text}\n\nFrom it alone, {question}",
)

ARITHMETIC = (
    "What is {calculation}?",
    "Calculate {calculation}.",
    "{calculation} =",
    "Work out {calculation} and give the result.",
    "How much is {calculation}?",
    "Compute the value of {calculation}.",
    "Solve: {calculation}",
    "Give the number that {calculation} makes.",
)

TRANSLATE = (
    "Translate from {source} into {target}:\n\n{text}",
    "{text}\n\nSay this in {target}.",
    "How would one write this {source} sentence in {target}?\n\n{text}",
    'What is "{text}" in {target}?',
    "{source}: {text}\n{target}:",
    "Put the following into {target}.\n\n{text}",
    "Here is a sentence in {source}. Write it in {target}.\n\n{text}",
    "{text}\n\nGive the {target} translation.",
)

SUMMARIZE = (
    "Write the {wanted} of this {about}.\n\n{text}",
    "{text}\n\nWhat would be its {wanted}?",
    "Read the {about} and give its {wanted}.\n\n{text}",
    "{text}\n\nSay in few words what this {about} tells, as its {wanted}.",
    "Find the {wanted} for the following {about}:\n\n{text}",
    "{about}: {text}\n{wanted}:",
    "Put what matters in the following {about} into its {wanted}.\n\n{text}",
)
