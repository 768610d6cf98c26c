-- Dead letters.
-- uses nothing

local LETTERS_MOST, LETTERS_DAYS = 10000, 7     -- of a crew, and for how long they are kept
local LETTER_MOST = 65536                       -- bytes of a task, or of an entry, that a letter carries

-- Writes a letter: `fields` are name, value, name, value, ...; `carried`: more of them. `raw`: those of an entry that
-- brings no task. The letter carries their beginning, and where that is not all of them, how many bytes they have:
-- `raw.size`, if `raw` is a beginning already.
local function add_letter(reason, id, fields, carried, raw)
  local letter = { 'reason', reason, 'id', id }
  for _, value in ipairs(fields) do letter[#letter + 1] = value end
  for _, value in ipairs(carried or {}) do letter[#letter + 1] = value end
  if raw then
    local left, size, kept = LETTER_MOST, 0, 0
    local function beginning(text)      -- as much as there is room for, without half a character
      local cut = math.min(#text, left)
      for _ = 1, cut < #text and 3 or 0 do
        local behind = string.byte(text, cut + 1)
        if cut == 0 or behind < 128 or behind > 191 then break end
        cut = cut - 1
      end
      left, kept = cut == #text and left - cut or 0, kept + cut
      return string.sub(text, 1, cut)
    end
    for i = 1, #raw, 2 do
      local name, value = raw[i], raw[i + 1]
      size = size + #name + #value
      if left > 0 and i < 4000 then             -- unpack takes not many more
        letter[#letter + 1] = 'raw:' .. beginning(name)
        letter[#letter + 1] = beginning(value)
      end
    end
    size = math.max(size, raw.size or 0)
    if size > kept then letter[#letter + 1], letter[#letter + 2] = 'raw_bytes', int(size) end
  end
  redis.call('XADD', DEAD, '*', unpack(letter))
  local trimmed = redis.call('XTRIM', DEAD, 'MAXLEN', LETTERS_MOST)
    + redis.call('XTRIM', DEAD, 'MINID', int(now_ms - LETTERS_DAYS * DAY * 1000))
  local count = string.match(DEAD, '}:(.*)dead$') .. 'trimmed'      -- each queue of the crew has its own
  if trimmed > 0 then redis.call('HINCRBY', META, count, trimmed) end
  redis.call('EXPIRE', DEAD, LETTERS_DAYS * DAY)
end

-- Writes the letter of a task or step that somebody held. That of a task carries what it was to do, so that it can be
-- replayed when its record is gone. (A step is replayed within its run, or not at all.)
local function add_letter_of(reason, item, h, detail, spent)
  local fields = { 'class', h.class, 'agent', h.agent, 'attempt', h.attempt, 'worker', h.inc, 'entry', h.entry,
    'error', detail }
  if spent ~= '' then fields[#fields + 1], fields[#fields + 2] = 'spent', spent end
  if item.run_id then
    fields[#fields + 1], fields[#fields + 2] = 'run', item.run_id
    return add_letter(reason, item.id, fields)
  end
  local size, carried = 0, {}
  local function carry(name)
    local value = redis.call('HGET', item.task, name)
    if not value then return end
    carried[#carried + 1], carried[#carried + 2] = name, value
    size = size + #value
  end
  if item.is_there then      -- by name: the record's checkpoints may be very large
    for _, name in ipairs({ 'payload', 'inputs', 'work', 'deliver', 'role' }) do carry(name) end
    for name in string.gmatch(carried[3] == 'inputs' and carried[4] or '', '%S+') do
      if #carried <= 100 and size <= LETTER_MOST then carry('input:' .. name) end
    end
  end
  add_letter(reason, item.id, fields, size <= LETTER_MOST and #carried <= 100 and carried or nil)
end
