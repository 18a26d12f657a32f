"""Speed, memory and endurance, each against a named peer or an undisturbed run. By hand: python -m benchmarks.<name>"""
