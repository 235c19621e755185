"""Words that the demo's names and texts are made of."""

# ruff: noqa: RUF001  any letters may come
# fmt: off

DISEASES = (
    "Malaria", "Tuberculosis", "HIV", "Dengue", "Chikungunya", "Lassa fever", "Ebola", "Nipah",
    "Marburg virus disease", "Chagas disease", "Leishmaniasis", "Schistosomiasis", "Buruli ulcer",
    "Onchocerciasis", "Human African trypanosomiasis", "Leprosy", "Rabies", "Trachoma", "Yaws",
    "Cholera", "Typhoid fever", "Rotavirus", "Hepatitis B", "RSV", "Zika", "Rift Valley fever",
    "Crimean-Congo haemorrhagic fever", "Cryptosporidiosis", "Mycetoma", "Scabies")
FORMS = (
    "", " (drug resistant)", " in pregnancy", " – paediatric", " (severe)", ", relapsing",
    " type 2", " (pre-exposure)", " (asymptomatic)", ", latent", " with HIV", " (neonatal)")
STAGES = (
    "Discovery", "Hit to lead", "Lead optimisation", "Preclinical", "IND enabling", "Phase 1",
    "Phase 2a", "Phase 2b", "Phase 3", "Registration", "Phase 4", "Access")
USE_STATUSES = (
    "Not in clinical use", "Emergency use", "Compassionate use", "Conditional approval",
    "Approved", "WHO prequalified", "Off label", "Withdrawn", "Suspended", "Unknown")
SYLLABLES = (
    "ara", "bel", "cor", "dexi", "evo", "fluo", "gam", "hexa", "imu", "juv", "kera", "lumi",
    "mab", "nova", "oxa", "pria", "quin", "riva", "sola", "teno", "uva", "vax", "xeno", "zeta")
ENDINGS = ("mab", "vir", "quine", "zole", "cillin", "vax", "tide", "nib", "ase", "stat")
FIRST_NAMES = (
    "Amara", "Björn", "Chidi", "Daniela", "Élodie", "Farid", "Grace", "Hiroshi", "Ingrid", "João",
    "Kwame", "Léa", "Mónica", "Nguyễn", "Olumide", "Priya", "Rosa", "Søren", "Tomasz", "美咲")
LAST_NAMES = (
    "Abebe", "Bianchi", "Castillo", "Diallo", "Eze", "Fernández", "García", "Haddad", "Ivanova",
    "Jørgensen", "Kariuki", "López", "Müller", "Ndiaye", "O'Brien", "Petrović", "Quispe", "Rahman",
    "Svensson", "Tanaka", "Ünal", "Vargas", "Wójcik", "Yamamoto", "Zhou", "Østergaard")
COMPANY_HEADS = (
    "Alpine", "Contoso", "Fabrikam", "Fourth Coffee", "Litware", "Lucerne", "Northwind",
    "Proseware", "Relecloud", "Tailspin", "VanArsdel", "Wide World", "Wingtip", "Woodgrove")
COMPANY_TAILS = (
    "Biologics", "Therapeutics", "Pharma GmbH", "Labs, Inc.", "Vaccines Ltd", "Research S.A.",
    "University Hospital", "Institute", "& Sons", "Médical SARL", "Farmacêutica")
CITIES = (
    "Accra", "Basel", "Bengaluru", "Dakar", "Genève", "København", "Lima", "São Paulo", "東京")
COUNTRIES = (
    "Brazil", "Côte d'Ivoire", "Denmark", "Ethiopia", "Ghana", "India", "Japan", "Kenya", "Mali",
    "Nigeria", "Peru", "Senegal", "South Africa", "Switzerland", "Thailand", "Türkiye", "Uganda",
    "United Kingdom", "United States", "Viet Nam")
REGIONS = (
    "Northern Africa", "Eastern Africa", "Middle Africa", "Southern Africa", "Western Africa",
    "Caribbean", "Central America", "South America", "Northern America", "Central Asia",
    "Eastern Asia", "South-eastern Asia", "Southern Asia", "Western Asia", "Eastern Europe",
    "Northern Europe", "Southern Europe", "Western Europe", "Australia and New Zealand",
    "Melanesia", "Micronesia", "Polynesia")
SENTENCES = (
    "First-in-human dose escalation showed no dose-limiting toxicity.",
    "Efficacy at 12 months was 67 % (95 % CI 59–73), \"as expected\".",
    "Déposé auprès de l'agence; réponse attendue au T4.",
    "候補ワクチンは第2相試験中である。",
    "Follow-up by phone\tand e-mail; no serious adverse events 🙂",
    "Dose <= 10 mg/kg; weight > 35 kg; path C:\\trials\\arm_b.")
JOBS = ("Principal Investigator", "Clinical Research Associate", "Data Manager", "Head of R&D")
CURRENCIES = (
    ("US Dollar", "USD", "$", "1.0000000000"),
    ("Euro", "EUR", "€", "0.9217000000"),
    ("Swiss Franc", "CHF", "CHF", "0.8846153846"),
    ("Yen", "JPY", "¥", "151.3700000000"),
    ("Rand", "ZAR", "R", "18.6412000000"))
