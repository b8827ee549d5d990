-- In which numbers a task's training calculated.
ALTER TABLE tasks ADD COLUMN precision TEXT;  -- f32, bf16; NULL before it is known, and in older tasks
