"""Chat templates with the habits of published ones."""

QWEN2 = """{%- for message in messages %}
{%- if loop.first and message['role'] != 'system' %}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

QWEN3 = """{%- for message in messages %}
{%- set content = message['content'] %}
{%- if message['role'] == 'assistant' and '</think>' in content and not loop.last %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
"""Drops the reasoning of earlier turns."""

DEEPSEEK = """{%- for message in messages %}
{%- if message['role'] == 'user' %}{{- '<|im_start|>' + message['content'] }}{%- endif %}
{%- if message['role'] == 'assistant' %}
{{- '<|im_end|>' + message['content'].split('</think>')[-1] + '<|endoftext|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_end|><think>\\n' }}{%- endif %}"""
"""Opens the reasoning in the generation prompt, and drops it from every turn, the last one too."""

LLAMA3 = """{{- '<|im_start|>' }}
{%- for message in messages %}
{{- '[' + message['role'] + ']\\n\\n' + message['content'] | trim + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant]\\n\\n' }}{%- endif %}"""
"""Begins with a BOS token, and trims what is said."""

MARKED = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- message['content'] + '<|im_end|>\\n' }}{%- endgeneration %}
{%- else %}{{- message['content'] + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
"""Marks what is trained, the line's end included."""

ENDLESS = """{%- for message in messages %}{{- message['role'] + ': ' + message['content'] + '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}"""
"""Ends no turn."""

NO_SYSTEM = """{%- for message in messages %}
{%- if message['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{{- message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant\\n' }}{%- endif %}"""
