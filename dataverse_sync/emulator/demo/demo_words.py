"""Words that the demo's names and texts are made of."""

# ruff: noqa: RUF001  any letters may come

DISEASES = (
    "Malaria", "Tuberculosis", "HIV", "Dengue", "Chikungunya", "Lassa fever", "Ebola",
    "Marburg virus disease", "Nipah", "Chagas disease", "Leishmaniasis", "Schistosomiasis",
    "Onchocerciasis", "Lymphatic filariasis", "Human African trypanosomiasis", "Buruli ulcer",
    "Leprosy", "Rabies", "Trachoma", "Yaws", "Cholera", "Typhoid fever", "Shigellosis",
    "Rotavirus", "Hepatitis B", "Hepatitis C", "RSV", "Zika", "Yellow fever", "Rift Valley fever",
    "Crimean-Congo haemorrhagic fever", "Cryptosporidiosis", "Mycetoma", "Scabies",
    "Snakebite envenoming", "Group B Streptococcus",
)  # fmt: skip
FORMS = (
    "", " (drug resistant)", " in pregnancy", " – paediatric", " (severe)", ", relapsing",
    " type 2", " (pre-exposure)", " (asymptomatic)", ", latent", " with HIV", " (neonatal)",
)  # fmt: skip
STAGES = (
    "Discovery", "Hit to lead", "Lead optimisation", "Preclinical", "IND enabling", "Phase 1",
    "Phase 2a", "Phase 2b", "Phase 3", "Registration", "Phase 4", "Access",
)  # fmt: skip
USE_STATUSES = (
    "Not in clinical use", "Emergency use", "Compassionate use", "Conditional approval",
    "Approved", "WHO prequalified", "Recommended", "Off label", "Withdrawn", "Suspended",
    "Unknown", "Superseded",
)  # fmt: skip
SYLLABLES = (
    "ara", "bel", "cor", "dexi", "evo", "fluo", "gam", "hexa", "imu", "juv", "kera", "lumi",
    "mab", "nova", "oxa", "pria", "quin", "riva", "sola", "teno", "uva", "vax", "xeno", "zeta",
)  # fmt: skip
ENDINGS = ("mab", "vir", "quine", "zole", "cillin", "vax", "tide", "nib", "ase", "stat")
FIRST_NAMES = (
    "Amara", "Björn", "Chidi", "Daniela", "Élodie", "Farid", "Grace", "Hiroshi", "Ingrid", "João",
    "Kwame", "Léa", "Mónica", "Nguyễn", "Olumide", "Priya", "Rosa", "Søren", "Tomasz", "Yasmin",
    "Zoltán", "美咲", "Ximena", "Øystein",
)  # fmt: skip
LAST_NAMES = (
    "Abebe", "Bianchi", "Castillo", "Diallo", "Eze", "Fernández", "García", "Haddad", "Ivanova",
    "Jørgensen", "Kariuki", "López", "Müller", "Ndiaye", "O'Brien", "Petrović", "Quispe", "Rahman",
    "Svensson", "Tanaka", "Ünal", "Vargas", "Wójcik", "Yamamoto", "Zhou", "Østergaard",
)  # fmt: skip
COMPANY_HEADS = (
    "Alpine", "Blue Yonder", "Contoso", "Fabrikam", "Fourth Coffee", "Graphic", "Litware",
    "Lucerne", "Northwind", "Proseware", "Relecloud", "Tailspin", "Trey", "VanArsdel",
    "Wide World", "Wingtip", "Woodgrove", "Adatum", "Datum", "Humongous",
)  # fmt: skip
COMPANY_TAILS = (
    "Biologics", "Therapeutics", "Pharma GmbH", "Labs, Inc.", "Vaccines Ltd", "Research S.A.",
    "Clinic", "University Hospital", "Institute", "Diagnostics", "Foundation", "& Sons",
    "Trading Co.", "Logistics", "Consulting", "Holdings", "Médical SARL", "Farmacêutica",
)  # fmt: skip
CITIES = (
    ("Accra", "Ghana"), ("Basel", "Switzerland"), ("Bengaluru", "India"),
    ("Boston", "United States"), ("Cape Town", "South Africa"), ("Dakar", "Senegal"),
    ("Genève", "Switzerland"), ("København", "Denmark"), ("Lima", "Peru"),
    ("London", "United Kingdom"), ("Nairobi", "Kenya"), ("São Paulo", "Brazil"),
    ("Seoul", "South Korea"), ("Tokyo", "Japan"), ("Zürich", "Switzerland"),
)  # fmt: skip
REGIONS = (
    "Northern Africa", "Eastern Africa", "Middle Africa", "Southern Africa", "Western Africa",
    "Caribbean", "Central America", "South America", "Northern America", "Central Asia",
    "Eastern Asia", "South-eastern Asia", "Southern Asia", "Western Asia", "Eastern Europe",
    "Northern Europe", "Southern Europe", "Western Europe", "Australia and New Zealand",
    "Melanesia", "Micronesia", "Polynesia",
)  # fmt: skip
SENTENCES = (
    "First-in-human dose escalation showed no dose-limiting toxicity.",
    "The sponsor's site lists the programme as on hold since the last quarter.",
    "Efficacy at 12 months was 67 % (95 % CI 59–73), \"as expected\".",
    "Cold chain: 2–8 °C; stability data at 40 °C are pending.",
    "Funded by a consortium; see the agreement of 3 May.",
    "Déposé auprès de l'agence; réponse attendue au T4.",
    "候補ワクチンは第2相試験中である。",
    "Follow-up by phone\tand e-mail; no serious adverse events 🙂",
    "Interim analysis planned after 150 events, α = 0.025.",
    "Dose <= 10 mg/kg; weight > 35 kg; path C:\\trials\\arm_b.",
)  # fmt: skip
JOBS = (
    "Principal Investigator", "Clinical Research Associate", "Head of Portfolio", "Data Manager",
    "Medical Director", "Purchasing Manager", "Regulatory Affairs Lead",
)  # fmt: skip
CURRENCIES = (
    ("US Dollar", "USD", "$", "1.0000000000"),
    ("Euro", "EUR", "€", "0.9217000000"),
    ("Pound Sterling", "GBP", "£", "0.7884510000"),
    ("Swiss Franc", "CHF", "CHF", "0.8846153846"),
    ("Yen", "JPY", "¥", "151.3700000000"),
    ("Rand", "ZAR", "R", "18.6412000000"),
)  # fmt: skip
