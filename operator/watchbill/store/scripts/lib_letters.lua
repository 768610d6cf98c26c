-- Dead letters.
-- uses nothing

local LETTERS_MOST, LETTERS_DAYS = 10000, 7     -- of a crew, and for how long they are kept
local LETTER_MOST = 65536                       -- bytes of a task that a letter carries

-- Writes a letter: `fields` are name, value, name, value, ...; `carried`: more of them.
local function add_letter(reason, id, fields, carried)
  local letter = { 'reason', reason, 'id', id }
  for i = 1, math.min(#fields, 4000) do letter[#letter + 1] = fields[i] end
  for _, value in ipairs(carried or {}) do letter[#letter + 1] = value end
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
  local record, size, carried = item.is_there and redis.call('HGETALL', item.task) or {}, 0, {}
  for i = 1, #record, 2 do
    local name = record[i]
    if name == 'payload' or name == 'inputs' or name == 'work' or name == 'deliver' or string.find(name, '^input:') then
      carried[#carried + 1], carried[#carried + 2] = name, record[i + 1]
      size = size + #record[i + 1]
    end
  end
  add_letter(reason, item.id, fields, size <= LETTER_MOST and #carried <= 100 and carried or nil)
end
