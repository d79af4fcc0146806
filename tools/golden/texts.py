"""The texts of the fixtures, written for them."""

# (task, text): through tokenizer.json with the task's prefix.
JINA = [
    ("retrieval.query", "Which cable car climbs to the glacier?"),
    ("retrieval.passage", "The upper station stands at 2,841 metres; the last cabin leaves at half past four."),
    ("separation", "Wo fährt die Seilbahn ab, und was kostet die Fahrt übers Wochenende?"),
    ("classification", "Le vent était si fort que l'exploitant a arrêté les cabines."),
    ("text-matching", "¿Cuántas personas caben en una cabina?"),
    (None, "Канатная дорога закрыта до весны."),
    ("retrieval.query", "山の上まで何分かかりますか"),
    ("text-matching", "索道从山谷一直通到山顶。"),
    ("classification", "كم ثمن التذكرة؟"),
    (None, "snow ❄️ and  double   spaces,\ttabs\nand a newline"),
    ("retrieval.passage", "a"),
    ("retrieval.query", ""),
]

# A document and where its chunks end; the chunks are the sentences with the blank before each.
LATE_CHUNKING = [
    "The ropeway was built in 1931 to carry ore down to the valley.",
    " Its towers still stand, though the mine closed long ago.",
    " Since then the buckets have been replaced by cabins for hikers.",
    " Nobody who rides up on a clear morning forgets the view.",
]

# The last one is longer than MiniLM's 256 tokens, so it is cut.
MINILM = [
    "How do I reset my password?",
    "The quick brown fox jumps over the lazy dog.",
    "",
    "a",
    "Ein Gewitter zieht über die Täler; die Gondeln stehen still.",
    "Où est passée la clé de l'écurie? Ça dépend, répondit-elle, déçue.",
    "缆车在大风天停止运行。",
    "ロープウェイは八時に動き出す。",
    "We reached the summit! 🎉🏔️ Best day ever 😀",
    "naïve café, coöperate, Ångström, São Paulo: ACCENTS and CASE fold away",
    "e = mc^2; f(x) := x**2 - 3*x + 1 # 100% [brackets] {braces} <tags> user@example.org",
    "   leading, trailing and\n\n  broken    white\tspace   ",
    "Channel one carries voice and channel two carries data. " * 32,
]

MINILM_QUERY = "why does the ropeway stop when it is windy"
MINILM_PASSAGES = [
    "To bake bread you need flour, water, salt and some patience.",
    "A return ticket for the cable car costs twelve euros; children ride free.",
    "Strong gusts make the cabins swing, so the operator halts the ropeway whenever a storm comes close.",
    "The parliament debated the new budget until late at night.",
    "Bring an umbrella: the forecast says rain for the whole weekend.",
]
