import os, sys
from pathlib import Path
from t3flow import settings
from t3flow.consumer import consume
consume(settings.load(None, os.environ))
